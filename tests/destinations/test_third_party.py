"""The example of "Add a destination" in the README, installed as a package of its own and run as it stands there."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from relayd import config, destinations
from relayd.destinations.base import Destination
from relayd.errors import LoginRefused, Rejected, TryAgain
from relayd.surroundings import Surroundings
from tests.destinations.driver import line

README = Path(__file__).parents[2] / "README.md"


def told(part: str) -> str:
    """The code between two markers of the README."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {part}: begin -->\n```\w+\n(.*?)```\n<!-- {part}: end -->", text, re.DOTALL)
    assert found is not None, f"the README has no {part}"
    return found[1]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Installed as pip would: a module, and metadata that names its entry points. Gives the type."""
    site = tmp_path / "site"
    metadata = site / "relayd_ntfy-1.0.dist-info"
    metadata.mkdir(parents=True)
    ((group, entries),) = tomllib.loads(told("entry point"))["project"]["entry-points"].items()
    ((kind, place),) = entries.items()
    (site / f"{place.partition(':')[0]}.py").write_text(told("destination"), encoding="utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: relayd-ntfy\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{kind} = {place}\nwebhook = {place}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield kind
    sys.modules.pop(place.partition(":")[0], None)


class Server:
    """Takes texts as ntfy does."""

    def __init__(self) -> None:
        self.texts: list[object] = []
        self.status = 200
        self.answer: object = {"id": "m1"}

    async def post(self, request: web.Request) -> web.Response:
        self.texts.append(await request.json())
        return web.json_response(self.answer, status=self.status)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    played = Server()
    app = web.Application()
    app.router.add_post("/", played.post)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    yield played, f"http://{host}:{port}"
    await runner.cleanup()


def built(kind: str, url: str, tmp_path: Path) -> Destination:
    """By way of a configuration file, as the relay does it."""
    place = tmp_path / "relayd.toml"
    place.write_text(
        f'[destination.phones]\ntype = "{kind}"\nurl = "{url}"\ntopic = "fleet"\n'
        f'[source.s]\ntype = "folder"\npath = "{tmp_path}"\n'
        '[[rule]]\nname = "all"\nfrom = ["s"]\ndeliver = [{ to = "phones", text = "{{ item.name }}" }]\n',
        encoding="utf-8",
    )
    loaded = config.load([place])
    assert loaded.notices == ()
    return destinations.build("phones", loaded.config.destination["phones"], Surroundings())


async def test_the_example_of_the_readme_delivers(package: str, server: tuple[Server, str], tmp_path: Path) -> None:
    played, url = server
    async with line(lambda: built(package, url, tmp_path), tmp_path / "spool") as made:
        await made.put(b"x", text="clip.mp4 from gate")
        receipt = await made.deliver(tries=1)
        assert receipt.fields == {"id": "m1"}
        assert played.texts == [{"topic": "fleet", "message": "clip.mp4 from gate"}]
        assert all(finding.is_good for finding in await made.destination.check())


async def test_the_example_calls_nothing_delivered_that_was_not(
    package: str, server: tuple[Server, str], tmp_path: Path
) -> None:
    played, url = server
    async with line(lambda: built(package, url, tmp_path), tmp_path / "spool") as made:
        await made.put(b"x", text="t")
        played.answer = {"welcome": "to the hotel"}
        assert isinstance(await made.attempt(), TryAgain)
        played.status = 401
        assert isinstance(await made.attempt(), LoginRefused)
        played.status = 400
        assert isinstance(await made.attempt(), Rejected)


def test_another_package_takes_the_place_of_no_type_of_our_own(package: str) -> None:
    assert package in destinations.known_types()
    assert destinations.known_types().count("webhook") == 1
    assert destinations.models("webhook").config.__module__ == "relayd.destinations.webhook"


def test_a_type_of_our_own_is_known_without_looking_through_other_packages(package: str) -> None:
    assert package not in destinations.known_types("webhook")
