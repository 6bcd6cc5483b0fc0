"""QR codes for a terminal and as a PNG.

Promises: with colours it is black on white, whatever the terminal has; without, what is light is drawn, as suits a dark
terminal. A quiet zone is around it in both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

QUIET_MODULES = 4
PNG_SCALE = 10
_BLACK_ON_WHITE, _RESET = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
_HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
"""(whether the upper, the lower half is drawn) → character."""


def drawn(text: str, *, is_coloured: bool) -> str:
    """Two modules, one above the other, in each character."""
    rows = [[bool(dark) for dark in row] for row in _code(text).matrix_iter(border=QUIET_MODULES)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        pairs = zip(upper, lower, strict=True)
        line = "".join(_HALVES[(top == is_coloured, bottom == is_coloured)] for top, bottom in pairs)
        lines.append(f"{_BLACK_ON_WHITE}{line}{_RESET}" if is_coloured else line)
    return "\n".join(lines)


def write_png(text: str, file: Path) -> None:
    """Black on white. Raises OSError."""
    with file.open("wb") as stream:
        _code(text).save(stream, kind="png", scale=PNG_SCALE, border=QUIET_MODULES)


def _code(text: str) -> Any:
    import segno  # only who asks for a code pays for it

    return segno.make(text, error="m", micro=False)
