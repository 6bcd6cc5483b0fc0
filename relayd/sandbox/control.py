"""What a test, the demo or a trainer may ask of a running sandbox, below `/_sandbox/`; no fault touches these.

Promises: plain JSON; answers only to loopback names, so that a page in a browser cannot steer it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from aiohttp import web

from relayd.sandbox.faults import ACTIONS, FaultError

if TYPE_CHECKING:
    from relayd.sandbox.cachet_records import Incident
    from relayd.sandbox.sayvu import Report
    from relayd.sandbox.server import Sandbox

PREFIX = "/_sandbox"
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
_BODY_LIMIT = 64 * 1024


async def answer(sandbox: Sandbox, request: web.BaseRequest) -> web.Response:
    """One request to the control addresses."""
    if request.host.rsplit(":", 1)[0] not in _LOOPBACK_NAMES and request.host not in _LOOPBACK_NAMES:
        return web.json_response({"error": f"{request.host} is no loopback name"}, status=421)
    try:
        body = await request.content.read(_BODY_LIMIT)
        path = request.path.removeprefix(PREFIX)
        if path.startswith("/watcher/"):
            found = await _before_cameras(sandbox, request.method, path.removeprefix("/watcher"), body)
        else:
            found = _answer(sandbox, request.method, path, body)
    except (ValueError, KeyError, TypeError) as error:
        return web.json_response({"error": str(error)}, status=400)
    if found is None:
        return web.json_response({"error": f"no {request.method} {request.path}"}, status=404)
    return web.json_response(found)


def _answer(sandbox: Sandbox, method: str, path: str, body: bytes) -> object:
    match method, path:
        case "GET", "/log":
            return {"log": [asdict(entry) for entry in sandbox.log]}
        case "GET", "/records":
            return {name: shown(sandbox) for name, shown in _RECORDS.items()}
        case "GET", _ if path.removeprefix("/") in _RECORDS:
            return _RECORDS[path.removeprefix("/")](sandbox)
        case "GET", "" | "/":
            return {
                "url": sandbox.url,
                "mqtt": None if sandbox.broker is None else sandbox.broker.url,
                "state": str(sandbox.folder),
                "up": sandbox.is_up,
                "faults": [fault.text for fault in sandbox.faults],
                "known_faults": {name: text for name, (_, _, text) in ACTIONS.items()},
            }
        case "POST", _:
            return _change(sandbox, path, _read_object(body))
    return None


def _of_report(report: Report) -> dict[str, object]:
    """A report as the dispatcher has it before him."""
    images = [
        {"name": one.name, "size": len(one.content), "sha256": hashlib.sha256(one.content).hexdigest()}
        for one in report.images
    ]
    return {"body": dict(report.body), "at": report.at, "lines": list(report.lines), "images": images}


def _cachet(sandbox: Sandbox) -> object:
    return {"incidents": [_shown(each) for each in sandbox.cachet.incidents.values()]}


def _shown(incident: Incident) -> dict[str, object]:
    """An incident of the status page as its readers see it."""
    return {
        "id": incident.id,
        **incident.body.model_dump(exclude_unset=True),
        "message": incident.message,
        "status": incident.status,
        "at": incident.at,
        "updates": [asdict(update) for update in incident.updates],
    }


def _sayvu(sandbox: Sandbox) -> object:
    return {"reports": {str(number): _of_report(each) for number, each in sandbox.reports.items()}}


def _incidentshare(sandbox: Sandbox) -> object:
    return asdict(sandbox.share.archive)


def _watcher(sandbox: Sandbox) -> object:
    watcher = sandbox.watcher
    return {
        "activations": [asdict(each) for each in watcher.activations.values()],
        "streams": {name: asdict(stream) for name, stream in watcher.streams.items()},
        "messages": watcher.messages,
        "episodes": watcher.episodes,
    }


def _mqtt(sandbox: Sandbox) -> object:
    return {"messages": [] if sandbox.broker is None else [asdict(each) for each in sandbox.broker.messages]}


_RECORDS: Mapping[str, Callable[[Sandbox], object]] = {
    "objects": lambda sandbox: {"objects": [asdict(stored) for stored in sandbox.objects.values()]},
    "sayvu": _sayvu,
    "incidentshare": _incidentshare,
    "cachet": _cachet,
    "watcher": _watcher,
    "mqtt": _mqtt,
    "webhook": lambda sandbox: {"posts": {key: taken.document for key, taken in sandbox.webhook_taken.items()}},
}
"""What each stand-in has taken."""


async def _before_cameras(sandbox: Sandbox, method: str, path: str, body: bytes) -> object:
    """What only cameras and people before them do at a real Watcher."""
    watcher = sandbox.watcher
    match method, path:
        case "POST", "/scan":
            token = _read_object(body).get("token")
            return {"stream_name": watcher.scan(None if token is None else str(token))}
        case "POST", "/alive":
            wish = _read_object(body)
            watcher.streams[str(wish["stream"])].alive = bool(wish["alive"])
            return {"alive": bool(wish["alive"])}
        case "POST", "/episode":
            return await watcher.add_episode(**_read_object(body))
    return None


def _change(sandbox: Sandbox, path: str, wish: dict[str, object]) -> object:
    match path:
        case "/faults":
            if not isinstance(wish["faults"], str):
                raise FaultError('write {"faults": "store#2 lose; slot status 429"}')
            sandbox.script(wish["faults"])
            return {"faults": [fault.text for fault in sandbox.faults]}
        case "/link":
            if not isinstance(wish["up"], bool):
                raise FaultError('write {"up": true} or {"up": false}')
            sandbox.set_link(up=wish["up"])
            return {"up": sandbox.is_up}
        case "/clock":
            sandbox.advance(float(str(wish["advance"])))
            return {"now": sandbox.now()}
        case "/mqtt":
            if sandbox.broker is None:
                raise FaultError("there is no broker: start the sandbox with --mqtt PORT")
            return asdict(sandbox.broker.publish(str(wish["topic"]), json.dumps(wish["payload"]).encode()))
        case "/revoke":
            sandbox.revoke_tokens()
            return {"revoked": True}
    return None


def _read_object(body: bytes) -> dict[str, object]:
    found = json.loads(body or b"{}")
    if not isinstance(found, dict):
        raise FaultError("the body is no JSON object")
    return found
