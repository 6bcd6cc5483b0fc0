"""The live table: drawn at most once a second, only the rows that fit, with keys to turn the page.

Promises: leaves the terminal as it found it; without a terminal to read keys from it shows the first page.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import termios
import tty
from collections.abc import Iterator

from relayd import clock
from relayd.cli import fleet_page, tables
from relayd.cli.fleet_view import Pages, Wish
from relayd.cli.tables import Block
from relayd.fleet_watch import NoFleet, Watch

REDRAW_SECONDS = 1.0
FEWEST_ROWS = 3
_KEYS = "space next page, b back, s sort, q quit"
_ON, _BACK = (b" ", b"n", b"\x1b[6~", b"\x1b[B"), (b"b", b"p", b"\x1b[5~", b"\x1b[A")


async def show_live(watch: Watch, wish: Wish, seconds: float | None) -> None:
    """Until q, Ctrl-C or the end of `seconds`. Raises NoFleet if the first connection fails."""
    await _first_connection(watch)
    keys: asyncio.Queue[bytes] = asyncio.Queue()
    until = None if seconds is None else clock.monotonic() + seconds
    with _reading(keys):
        if not tables.is_for_people():
            await _print_on(watch, wish, until)
            return
        await _draw_on(watch, wish, keys, until)


async def _first_connection(watch: Watch) -> None:
    while not watch.is_connected:
        if watch.trouble:
            raise NoFleet(f"the fleet cannot be seen: {watch.trouble}")
        await asyncio.sleep(0.05)


async def _draw_on(watch: Watch, wish: Wish, keys: asyncio.Queue[bytes], until: float | None) -> None:
    from rich.live import Live

    pages = Pages()
    with Live(console=tables.console(), screen=True, auto_refresh=False) as live:
        while until is None or clock.monotonic() < until:
            live.console.width = tables.terminal_width()
            live.update(tables.rendered(_page(watch, wish, pages)), refresh=True)
            key = await _next_key(keys)
            if key == b"q":
                return
            if key == b"s":
                wish.sort_by_next()
            elif key in _ON or key in _BACK:
                pages.turn(_rows() if key in _ON else -_rows())


async def _print_on(watch: Watch, wish: Wish, until: float | None) -> None:
    """For a terminal without colours, or a file: one table after another, when something has changed."""
    seen = -1
    await watch.everything(None)
    while until is None or clock.monotonic() < until:
        if watch.changes != seen:
            seen = watch.changes
            everything = watch.fleet.relays(now=clock.now(), monotonic=clock.monotonic())
            shown = wish.choose(everything)[: wish.limit]
            width = tables.terminal_width() if sys.stdout.isatty() else None
            tables.show([*fleet_page.blocks(shown, everything, width=width, trouble=watch.trouble), tables.Line("")])
            sys.stdout.flush()
        await asyncio.sleep(REDRAW_SECONDS)


def _page(watch: Watch, wish: Wish, pages: Pages) -> list[Block]:
    everything = watch.fleet.relays(now=clock.now(), monotonic=clock.monotonic())
    chosen = wish.choose(everything)[: wish.limit]
    part = pages.part(chosen, _rows())
    end = pages.first + len(part)
    where = f"{pages.first + 1 if part else 0} to {end} of {len(chosen)} by {wish.sort}"
    return fleet_page.blocks(
        part, everything, width=tables.terminal_width(), note=f"{where}   {_KEYS}", trouble=watch.trouble
    )


def _rows() -> int:
    return max(FEWEST_ROWS, shutil.get_terminal_size().lines - fleet_page.HEAD_LINES - 1)


async def _next_key(keys: asyncio.Queue[bytes]) -> bytes:
    """The next key, or nothing when it is time to draw anew."""
    try:
        async with asyncio.timeout(REDRAW_SECONDS):
            return await keys.get()
    except TimeoutError:
        return b""


@contextlib.contextmanager
def _reading(keys: asyncio.Queue[bytes]) -> Iterator[None]:
    """Each key at once, unseen; the terminal is put back afterwards."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()
    try:
        tty.setcbreak(descriptor)
        loop.add_reader(descriptor, lambda: keys.put_nowait(os.read(descriptor, 16)))
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
