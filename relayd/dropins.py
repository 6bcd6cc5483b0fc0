"""What relayd adds to its own systemd unit: drop-ins below `relayd.service.d`, and how text is quoted in them.

Promises: only files that carry `MARK` are ever changed or removed; a path is quoted so that systemd reads exactly that
path, or is refused where systemd has no way to say it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from relayd import smallfiles
from relayd.errors import RelaydError
from relayd.files import printable

UNIT = "relayd.service"
FOLDER = Path("/etc/systemd/system") / f"{UNIT}.d"
MARK = "# Written by relayd: `relayd setup` and `relayd credential` change and remove this file."
SYSTEMD_RUNS = Path("/run/systemd/system")
TOOL_SECONDS = 60.0


class CannotQuote(RelaydError):
    """There is no way to write this path in a unit."""


def quoted(path: Path, *, also: str = "") -> str:
    r"""The path as one word of a list of paths (`ReadWritePaths=`); letters of `also` get a backslash, too.

    systemd ends a line at CR, LF and NUL and knows no escape for them here. Raises CannotQuote.
    """
    text = str(path)
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text) or not _is_unicode(text):
        raise CannotQuote(f"{printable(text)}: systemd cannot name a folder like this in a unit, give it another name")
    return re.sub(rf'([\\"{also}])', r"\\\1", text).replace("%", "%%")


def folder_line(key: str, path: Path) -> str:
    """`KEY="-PATH"`: a folder that may be missing when the relay starts. For `ReadWritePaths=` and `BindPaths=`."""
    # BindPaths= takes a word apart again, at colons, and reads quotes and backslashes a second time.
    return f'{key}="-{quoted(path, also=":" + chr(39) if key == "BindPaths" else "")}"'


def text_of(lines: Iterable[str]) -> str:
    """The whole drop-in."""
    return "\n".join([MARK, "[Service]", *lines, ""])


def place(name: str, root: Path = Path("/")) -> Path:
    """Where the drop-in of that name is."""
    return root / FOLDER.relative_to("/") / f"{name}.conf"


def is_so(name: str, lines: Iterable[str], root: Path = Path("/")) -> bool:
    """Whether the drop-in is there and says just this."""
    try:
        return place(name, root).read_text(encoding="utf-8") == text_of(lines)
    except (OSError, UnicodeDecodeError):
        return False


def put(name: str, lines: Iterable[str], root: Path = Path("/")) -> None:
    """Write it. Raises RelaydError over a file that somebody else wrote, and OSError."""
    path = place(name, root)
    if path.exists() and not is_ours(path):
        raise RelaydError(f"{path} was written by somebody else: move it away first")
    smallfiles.make_folder(path.parent, mode=0o755)
    smallfiles.put(path, text_of(lines).encode(), mode=0o644)


def remove(name: str, root: Path = Path("/")) -> bool:
    """Remove it, if it is ours and there."""
    path = place(name, root)
    return is_ours(path) and smallfiles.remove(path)


def names(beginning: str, root: Path = Path("/")) -> list[str]:
    """The names of our drop-ins that begin like this."""
    folder = place("x", root).parent
    found = folder.glob("*.conf") if folder.is_dir() else ()
    return sorted(path.stem for path in found if path.stem.startswith(beginning) and is_ours(path))


def is_ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline().rstrip("\n") == MARK
    except OSError:
        return False


def reload(root: Path = Path("/")) -> str | None:
    """Have systemd read the units again, where one runs and they are its own; why that failed, or None."""
    return _systemctl("daemon-reload") if has_systemd(root) else None


def has_systemd(root: Path = Path("/")) -> bool:
    """Whether a systemd runs here, and `root` is its own system."""
    return root == Path("/") and SYSTEMD_RUNS.is_dir()


def is_running() -> bool:
    """Whether systemd runs the relay at this moment: what changed counts from its next start."""
    return has_systemd() and _systemctl("is-active", "--quiet", UNIT) is None


def _systemctl(*words: str) -> str | None:
    """Why it failed, or None."""
    command = ["systemctl", *words]
    try:
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TOOL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ran.stderr.decode("utf-8", "replace").strip() or "systemctl failed" if ran.returncode else None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
