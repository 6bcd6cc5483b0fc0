"""A server that is every API at once and means no good: it knows the logins, and says back whatever it was told.

It answers by its `mood`, the same to everybody: in the right way, with an error that repeats the request with all its
secrets, with a redirect to another host, with megabytes, with control characters, never. `seen` are the requests:
path, headers and body.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONTROL = "\x1b[2J\r\nSet-Cookie: a=b\u202e\x00{{7*7}}${7*7}{0.__class__}"
LARGE_BYTES = 10_000_000
FOREVER = "1000000000"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Callers hang up on it all the time."""


class Hostile:
    """One of it, on a free port of `host`. `tokens` is what it hands out at logins, one after another."""

    def __init__(self, tokens: list[str], host: str = "127.0.0.1") -> None:
        self.mood = "echo 500"
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.elsewhere = ""
        self._tokens = tokens
        self._logins = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                outer.answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Standard error belongs to the test."""

        self._server = _Server((host, 0), Handler)
        self.url = f"http://{host}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="hostile", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def has_seen(self, number: int) -> bool:
        return len(self.seen) >= number

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """One request, in the mood of now."""
        body = self._body_of(handler)
        headers = dict(handler.headers)
        self.seen.append((handler.path, headers, body))
        is_login = handler.path.endswith("/login") or ("token" in handler.path and handler.command == "POST")
        said = json.dumps([handler.path, headers, body.decode("utf-8", "replace")])
        if is_login and not self.mood.startswith("login"):
            self._send(handler, 200, json.dumps(self._login()))
            return
        kind, _, rest = self.mood.removeprefix("login ").partition(" ")
        getattr(self, f"_{kind}")(handler, rest, said)

    def _login(self) -> dict[str, Any]:
        token = self._tokens[self._logins % len(self._tokens)]
        self._logins += 1
        return {"access_token": token, "refresh_token": f"{token}-again", "token_type": "Bearer", "expires_in": 3600}

    def _body_of(self, handler: BaseHTTPRequestHandler) -> bytes:
        if handler.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(handler.rfile.readline().split(b";")[0], 16):
                parts.append(handler.rfile.read(size))
                handler.rfile.readline()
            handler.rfile.readline()
            return b"".join(parts)
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))

    # --- moods

    def _echo(self, handler: BaseHTTPRequestHandler, status: str, said: str) -> None:
        error = {
            "message": said,
            "error": said,
            "error_description": said,
            "errors": [{"code": said, "message": said, "title": said, "detail": said}],
            "success": False,
        }
        self._send(handler, int(status), json.dumps(error))

    def _plain(self, handler: BaseHTTPRequestHandler, status: str, said: str) -> None:
        self._send(handler, int(status), said, kind="text/plain")

    def _redirect(self, handler: BaseHTTPRequestHandler, status: str, said: str) -> None:
        self._send(handler, int(status), "", Location=f"{self.elsewhere}{handler.path}")

    def _large(self, handler: BaseHTTPRequestHandler, status: str, said: str) -> None:
        self._send(handler, int(status), json.dumps({"message": "m" * LARGE_BYTES, said[:64_000]: 1}))

    def _control(self, handler: BaseHTTPRequestHandler, status: str, said: str) -> None:
        keys = {"x" * 65_536: CONTROL, "message": CONTROL + said, "errors": [{"message": CONTROL, "code": CONTROL}]}
        self._send(handler, int(status), json.dumps(keys))

    def _later(self, handler: BaseHTTPRequestHandler, status: str, said: str) -> None:
        self._send(handler, int(status), json.dumps({"message": said}), Retry_After=FOREVER)

    def _garbage(self, handler: BaseHTTPRequestHandler, status: str, said: str) -> None:
        handler.wfile.write(b"\x00\xff" + said.encode() + b"\r\n\r\n")
        handler.close_connection = True

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, text: str, kind: str = "application/json", **headers: str
    ) -> None:
        content = text.encode("utf-8", "replace")
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        try:
            handler.wfile.write(content)
        except OSError:  # it need not read ten megabytes
            handler.close_connection = True


MOODS = [
    *(f"echo {status}" for status in (200, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503)),
    *(f"plain {status}" for status in (200, 400, 500)),
    *(f"redirect {status}" for status in (301, 302, 303, 307, 308)),
    *("large 200", "large 400", "large 500", "control 200", "control 400", "control 500"),
    *("later 429", "later 503", "later 200", "garbage"),
    *(f"login {mood}" for mood in ("echo 200", "echo 400", "echo 401", "echo 500", "redirect 307", "redirect 303")),
    *("login control 400", "login large 200", "login plain 401", "login later 429", "login garbage"),
]
