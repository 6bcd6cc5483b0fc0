"""The smallest Resource Manager there can be: its slots are forms for a real storage, signed as its owner would."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.system.post_policy import signed_v2, signed_v4
from tests.system.radosgw import ACCESS_KEY, SECRET_KEY, Storage


@dataclass(slots=True)
class Manager:
    """Where it listens, the key of every slot it gave by file name, and how long the policy of slot N lives."""

    url: str
    storage: Storage
    bucket: str
    lives_seconds: Sequence[float]
    slots: dict[str, list[str]] = field(default_factory=dict)

    def slot(self, number: int, name: str, content_type: str) -> dict[str, object]:
        """Slot `number`, counted from 0; the signature versions take turns."""
        key = f"uploads/{number}/{name}"
        self.slots.setdefault(name, []).append(key)
        sign = (signed_v4, signed_v2)[number % 2]
        lives = self.lives_seconds[number] if number < len(self.lives_seconds) else 600
        fields = sign(
            ACCESS_KEY,
            SECRET_KEY,
            self.bucket,
            {"key": key, "Content-Type": content_type},
            conditions=[["content-length-range", 1, 100_000_000]],
            lives_seconds=lives,
        )
        return {
            "uri": f"ref://{number}",
            "signed_request": {"url": f"{self.storage.url}/{self.bucket}", "fields": fields},
        }


@asynccontextmanager
async def running_manager(
    storage: Storage, bucket: str, port: int, lives_seconds: Sequence[float] = ()
) -> AsyncIterator[Manager]:
    """Serves on `port` of loopback until the block ends."""
    manager = Manager(f"http://127.0.0.1:{port}", storage, bucket, lives_seconds)
    numbers = itertools.count()

    async def token(_: web.Request) -> web.Response:
        return web.json_response({"access_token": "token", "token_type": "BearerToken", "expires_in": "3599"})

    async def resources(request: web.Request) -> web.Response:
        asked = await request.json()
        return web.json_response(manager.slot(next(numbers), asked["file_name"], asked["mime_type"]))

    async def resolve(request: web.Request) -> web.Response:
        return web.json_response({"uri": f"https://resources.example.org/{request.match_info['reference']}"})

    app = web.Application()
    app.router.add_post("/oauth/token", token)
    app.router.add_post("/v1/resources", resources)
    app.router.add_get("/v1/resources/{reference}/resolve", resolve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield manager
    finally:
        await runner.cleanup()
