"""What a camera should be at the server, what it is, and what has to be changed: pure, values in, values out.

Promises: only what is written in the configuration is compared and changed; the rest belongs to the people there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from relayd.destinations.watcher_models import CameraConfig
from relayd.model import JSON
from relayd.watcher_client import Document, number

DAY_SECONDS = 86400
GIGABYTES = (10**9, 2**30)
"""Either is what a server may mean by one; the first is what we mean."""
_IDS = frozenset({"organization_id", "preset_id", "folder_id"})


def wish(camera: CameraConfig, ids: Mapping[str, JSON]) -> Document:
    """The body that asks for an activation token."""
    found: Document = {"title": camera.title, **ids, "enabled": camera.enabled, "static": camera.static}
    for key in ("dvr_depth", "dvr_space", "comment", "postal_address"):
        value = getattr(camera, key)
        if value is not None:
            found[key] = value
    if camera.coordinates is not None:
        found["coordinates"] = camera.coordinates.model_dump()
    return found


def changes(camera: CameraConfig, ids: Mapping[str, JSON], stream: Mapping[str, JSON]) -> Document:
    """What a `PUT` has to say so that the stream is as configured; empty if it is."""
    wanted = _wanted(camera, ids)
    found = {key: value for key, value in wanted.items() if not _is_same(key, value, stream.get(key))}
    dvr = _recording(camera, stream.get("dvr"))
    return {**found, "dvr": dvr} if dvr else found


def stats(stream: Mapping[str, JSON]) -> tuple[bool | None, float | None, float | None]:
    """(alive, time of the last change, time of the last frame), each None if the server does not say."""
    told, change = stream.get("stats"), stream.get("last_change")
    alive = told.get("alive") if isinstance(told, dict) else None
    changed = change.get("created_at") if isinstance(change, dict) else None
    frame = told.get("last_dts_at") if isinstance(told, dict) else None
    return (alive if isinstance(alive, bool) else None), _seconds(changed), _seconds(frame)


def _wanted(camera: CameraConfig, ids: Mapping[str, JSON]) -> Document:
    found: Document = {"title": camera.title, **ids}
    if "static" in camera.model_fields_set:
        found["static"] = camera.static
    if "enabled" in camera.model_fields_set:
        found["disabled"] = not camera.enabled
    if camera.comment is not None:
        found["comment"] = camera.comment
    if camera.postal_address is not None:
        found["postal_address"] = camera.postal_address
    if camera.coordinates is not None:
        found["coordinates"] = camera.coordinates.model_dump()
    return found


def _is_same(key: str, wanted: JSON, found: JSON) -> bool:
    if key in _IDS:
        return number(found) == wanted
    if key == "disabled":
        return bool(found) == wanted
    if key == "static":
        return (True if found is None else found) == wanted
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_is_near(value, found.get(name)) for name, value in wanted.items())
    return ("" if found is None else found) == wanted


def _recording(camera: CameraConfig, found: JSON) -> Document:
    """The members of `dvr` that differ."""
    have = found if isinstance(found, dict) else {}
    differing: Document = {}
    if camera.dvr_depth is not None and not _is_near(camera.dvr_depth * DAY_SECONDS, have.get("expiration")):
        differing["expiration"] = camera.dvr_depth * DAY_SECONDS
    if camera.dvr_space is not None:
        sizes = [camera.dvr_space * gigabyte for gigabyte in GIGABYTES]
        if not any(_is_near(size, have.get("storage_limit")) for size in sizes):
            differing["storage_limit"] = sizes[0]
    return differing


def _is_near(wanted: JSON, found: JSON) -> bool:
    if not isinstance(wanted, (int, float)) or isinstance(found, (bool, list, dict)) or found is None:
        return False
    try:
        return math.isclose(float(wanted), float(found), rel_tol=0.0, abs_tol=1e-6)
    except (ValueError, OverflowError):
        return False


def _seconds(milliseconds: JSON) -> float | None:
    """Unix seconds of the API's Unix milliseconds, if they are a moment that can be written."""
    found = number(milliseconds)
    return found / 1000 if found is not None and 0 < found < 10**14 else None
