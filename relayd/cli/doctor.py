"""`relayd doctor`: what support asks for first, on the screen or as one file.

Promises: works whether or not a relay runs and whether or not the configuration is good; every part that cannot be had
says why, in its place. No secret gets in: what looks like one is masked, and so is the value of each one configured.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from pydantic import BaseModel

from relayd import __version__, clock, config
from relayd.cli import FAILED, Options, tables
from relayd.cli.client import Relay, escaped
from relayd.config.online import try_everything
from relayd.errors import ConfigError, RelaydError, SecretMissing
from relayd.fields import Secret
from relayd.journal import masked

LIBRARIES = ("aiohttp", "aiomqtt", "asyncinotify", "jinja2", "paho-mqtt", "pydantic", "watchfiles")
JOURNAL_LINES = 500
JOURNAL_SECONDS = 20.0
LISTED = 50
SHORT = ("about.txt", "check.txt", "disk.txt")
"""Parts that the screen shows whole."""
LARGEST_CONFIG_BYTES = 1024 * 1024
SHORTEST_SECRET = 4
"""A shorter one is no secret, and blotting it out would leave nothing to read."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the bundle. `is_good` False: something here wants a person."""

    name: str
    text: str
    is_good: bool = True
    short: str = ""
    """What the screen shows instead of the text."""


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it all to FILE.")
@click.option("--online", is_flag=True, help="Also try each broker, login, folder and the clock.")
@click.pass_obj
def doctor(options: Options, bundle: Path | None, *, online: bool) -> None:
    """Gather everything that support asks first, secrets masked.

    Versions, configuration, status, what is dead or in quarantine, and the end of the journal. `--bundle FILE` writes
    it as a .tar.gz to send away; without it, the short form is shown. Exit code 1: something wants a person.
    """
    parts = _without_secrets(list(_parts(options, online=online)), _secrets_of(options))
    if bundle is None:
        tables.show([line for part in parts for line in _shown(part)])
    else:
        _write(bundle, parts)
        click.echo(f"{escaped(str(bundle))}: {len(parts)} parts, secrets masked; look through it before you send it")
    if not all(part.is_good for part in parts):
        raise click.exceptions.Exit(FAILED)


def _parts(options: Options, *, online: bool) -> Iterator[Part]:
    relay = Relay(options)
    yield _about()
    yield from _configuration(options, online=online)
    status = _status(relay)
    yield status
    if status.short:
        for state in ("dead", "quarantined"):
            yield _asked(relay, state)
    yield _disk(options)
    yield _journal()


def _about() -> Part:
    sync = clock.synchronization()
    lines = [
        f"relayd {__version__}",
        f"Python {platform.python_version()} on {platform.machine()}, Linux {platform.release()}",
        f"system {platform.freedesktop_os_release().get('PRETTY_NAME', 'unknown')}",
        f"time {clock.rfc3339(clock.now())}, synchronized: {sync.is_synchronized}",
        *(f"{name} {_version(name)}" for name in LIBRARIES),
    ]
    return Part("about.txt", "\n".join(lines))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


def _configuration(options: Options, *, online: bool) -> Iterator[Part]:
    try:
        loaded = config.load(options.files)
    except ConfigError as error:
        yield Part("check.txt", str(error), is_good=False)
        files: Sequence[Path] = options.files or ()
    else:
        files = loaded.files
        findings = asyncio.run(_tried(loaded)) if online else []
        lines = [
            "the configuration is good",
            f"sha256 {loaded.sha256}",
            *loaded.notices,
            *(text for _, text in findings),
        ]
        yield Part("check.txt", "\n".join(lines), is_good=all(is_good for is_good, _ in findings))
    for number, path in enumerate(files):
        yield Part(f"config/{number:02d}-{path.name}", _read(path))


async def _tried(loaded: config.Loaded) -> list[tuple[bool, str]]:
    return [
        (one.is_good, f"{'ok' if one.is_good else 'FAILED'} {one.subject}: {one.text}. {one.remedy}".rstrip(". "))
        async for one in try_everything(loaded.config)
    ]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(LARGEST_CONFIG_BYTES).decode("utf-8", "replace")
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


def _status(relay: Relay) -> Part:
    try:
        document = relay.get("/api/v1/status")
    except RelaydError as error:
        return Part("status.json", str(error), is_good=False)
    short = "\n".join([f"the relay is {document['state']}", *document["reasons"]])
    return Part("status.json", _pretty(document), is_good=document["state"] != "fault", short=short)


def _asked(relay: Relay, state: str) -> Part:
    name = f"items-{state}.json"
    try:
        document = relay.get("/api/v1/items", {"state": state, "limit": LISTED})
    except RelaydError as error:
        return Part(name, str(error))
    count = len(document["items"])
    more = f" or more, `relayd items --state {state}`" if count == LISTED else ""
    return Part(name, _pretty(document), short=f"{count}{more}")


def _pretty(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=True)


def _disk(options: Options) -> Part:
    path = config.spool_path_of(options.files)
    try:
        usage, found = shutil.disk_usage(path), os.statvfs(path)
    except OSError as error:
        return Part("disk.txt", f"{path}: {error.strerror}")
    text = f"{path}: {usage.free} of {usage.total} bytes are free, {found.f_favail} of {found.f_files} inodes"
    return Part("disk.txt", text)


def _journal() -> Part:
    command = ["journalctl", "--unit=relayd", f"--lines={JOURNAL_LINES}", "--output=short-iso", "--no-pager"]
    try:
        ran = subprocess.run(command, capture_output=True, timeout=JOURNAL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Part("journal.txt", f"the journal cannot be read: {error}")
    return Part("journal.txt", (ran.stdout + ran.stderr).decode("utf-8", "replace"))


# --- secrets


def _secrets_of(options: Options) -> list[str]:
    """The values of all secrets that the configuration names and that can be read, longest first."""
    try:
        settings = config.load(options.files).config
    except ConfigError:
        return []
    found = set()
    for secret in _secrets_in(settings):
        try:
            found.add(secret.reveal())
        except SecretMissing:
            continue
    return sorted((value for value in found if len(value) >= SHORTEST_SECRET), key=len, reverse=True)


def _secrets_in(value: object) -> Iterator[Secret]:
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets_in(getattr(value, name))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _secrets_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _secrets_in(inner)


def _without_secrets(parts: list[Part], secrets: list[str]) -> list[Part]:
    cleaned = []
    for part in parts:
        text = part.text
        for secret in secrets:
            text = text.replace(secret, "***").replace(json.dumps(secret)[1:-1], "***")
        cleaned.append(Part(part.name, masked(text), part.is_good, masked(part.short)))
    return cleaned


# --- shown or written


def _shown(part: Part) -> Iterator[tables.Line]:
    """The short form: what is known in a few lines, and of the rest how much there is."""
    state = "ok" if part.is_good else "fault"
    lines = (part.short or part.text).splitlines()
    if part.short or part.name in SHORT or len(lines) <= 1:
        yield tables.Line(part.name, state=state)
        yield from (tables.Line(f"  {escaped(line)}") for line in lines)
    else:
        yield tables.Line(
            f"{part.name}: {len(lines)} lines, in the bundle (`relayd doctor --bundle FILE`)", state=state
        )


def _write(bundle: Path, parts: Sequence[Part]) -> None:
    """For the eyes of its owner only: a configuration says much about a site."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for part in parts:
            content = part.text.encode() + b"\n"
            entry = tarfile.TarInfo(f"relayd-doctor/{part.name}")
            entry.size, entry.mtime, entry.mode = len(content), int(clock.now()), 0o600
            archive.addfile(entry, io.BytesIO(content))
    try:
        descriptor = os.open(bundle, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(gzip.compress(packed.getvalue()))
    except OSError as error:
        raise RelaydError(f"{bundle} cannot be written: {error.strerror}") from None
