"""`relayd sandbox`: serve the strict stand-ins until Ctrl-C, for training and tests."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from relayd.sandbox import cachet, watcher, webhook
from relayd.sandbox.faults import ACTIONS, OPERATIONS, FaultError
from relayd.sandbox.server import Sandbox


@click.command(help="Serve strict stand-ins of the APIs on loopback, for training and tests.")
@click.option(
    "--listen", metavar="ADDR", default="127.0.0.1:8490", show_default=True, help="Loopback only; port 0: any."
)
@click.option("--mqtt", type=click.IntRange(0, 65535), metavar="PORT", help="Play an MQTT 5 broker there; 0: any.")
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Keep what is stored here."
)
@click.option("--faults", metavar="SCRIPT", default="", help="Scripted faults; --faults help lists them.")
@click.option("--seed", default=0, show_default=True, help="Of faults that strike by chance.")
@click.option("--set", "switches", multiple=True, metavar="NAME=VALUE", help="A switch; --set help lists them.")
def sandbox(
    listen: str, mqtt: int | None, state: Path | None, faults: str, seed: int, switches: tuple[str, ...]
) -> None:
    if faults == "help":
        click.echo(_faults_help())
    elif "help" in switches:
        click.echo(_switches_help())
    else:
        asyncio.run(_serve(_built(listen, mqtt, state, faults, seed, switches)))


command = sandbox


def _built(
    listen: str, mqtt: int | None, state: Path | None, faults: str, seed: int, switches: tuple[str, ...]
) -> Sandbox:
    """The sandbox as asked for; what is wrong with the wish is wrong usage."""
    wishes: dict[str, Any] = {}
    for text in switches:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--set {text}: write NAME=VALUE; `--set help` lists the names")
        wishes[name] = None if value == "none" and name != "etag" else value
    try:
        return Sandbox(listen=listen, mqtt_port=mqtt, state=state, faults=faults, seed=seed, **wishes)
    except ValidationError as error:
        lines = [f"--set {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise click.UsageError("\n".join(lines) + "\n`--set help` lists the names") from None
    except FaultError as error:
        raise click.UsageError(f"--faults: {error}") from None
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from None


async def _serve(served: Sandbox) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await served.start()
    except OSError as error:
        await served.close()
        raise click.ClickException(
            f"cannot listen: {error.strerror}; choose another port with --listen or --mqtt"
        ) from None
    with contextlib.suppress(BrokenPipeError):
        click.echo(f"relayd sandbox: {served.url}")
        click.echo(f"client_id {served.settings.client_id}, client_secret {served.settings.client_secret}")
        click.echo(
            f"watcher: url {served.url}{watcher.PREFIX}, login {served.settings.watcher_login}, password"
            f" {served.settings.watcher_password}; show the newest token to a camera: curl -X POST"
            f" {served.url}/_sandbox/watcher/scan"
        )
        click.echo(
            f"cachet: url {served.url}{cachet.PREFIX}, token {served.settings.cachet_token}; what is on the page:"
            f" {served.url}/_sandbox/cachet"
        )
        click.echo(
            f"incidentshare: url {served.url}, the same client_id and client_secret; streams that are there:"
            f" {served.settings.share_channels}; what was sent and taken: {served.url}/_sandbox/incidentshare"
        )
        click.echo(
            f"sayvu: url {served.url}, api_key {served.settings.sayvu_key}; the reports: {served.url}/_sandbox/sayvu"
        )
        click.echo(f"webhook: url {served.url}{webhook.PATH}; what was posted: {served.url}/_sandbox/webhook")
        if served.broker is not None:
            click.echo(
                f"broker: {served.broker.url}; press a button: curl -X POST {served.url}/_sandbox/mqtt -d"
                """ '{"topic": "vehicle/panic", "payload": {"pressed": true}}'"""
            )
        click.echo(f"what is stored: {served.folder}, requests: {served.url}/_sandbox/log")
    try:
        await stop.wait()
    finally:
        await served.close()


def _faults_help() -> str:
    lines = [
        "OPERATION[#N|#N-M|#N+|%PERCENT] FAULT [AMOUNT] [NAME=VALUE…], separated by `;`, for example",
        "  store#2 lose; slot%5 status 429 retry_after=3; any portal",
        f"operations: {', '.join(OPERATIONS)}",
        "faults:",
    ]
    for name, (amount, options, text) in ACTIONS.items():
        number = "" if amount is None else " NUMBER" if math.isnan(amount) else f" [{amount:g}]"
        lines.append(f"  {name}{number}{''.join(f' [{option}=…]' for option in sorted(options))}: {text}")
    return "\n".join(lines)


def _switches_help() -> str:
    from relayd.sandbox.settings import Settings

    lines = []
    for name, field in Settings.model_fields.items():
        kind = str(field.annotation).replace("typing.", "").removeprefix("<class '").removesuffix("'>")
        lines.append(f"{name}={field.default}  ({kind}) {field.description or ''}".rstrip())
    return "\n".join(lines)
