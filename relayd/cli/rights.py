"""Who may: what only root can do is said with the line that does it."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from relayd.cli import Options
from relayd.errors import RelaydError

SUDO_LOOKS_IN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def needs_root(options: Options, words: Sequence[str], what: str) -> RelaydError:
    """`what` needs root: the error that says the line to type instead. `words` are those after `relayd`."""
    return RelaydError(f"{what} needs root, run:\n  {line(options, ['sudo'], words)}")


def line(options: Options, before: Sequence[str], words: Sequence[str]) -> str:
    """The command as one types it, with the configuration that was named."""
    program = "relayd" if shutil.which("relayd", path=SUDO_LOOKS_IN) else str(Path(sys.argv[0]).absolute())
    named = [] if options.config is None else ["--config", str(options.config)]
    return shlex.join([*before, program if before else "relayd", *named, *words])


def become_owner(place: Path) -> None:
    """Root goes on with the rights of whoever owns this folder, and with no more; others have theirs anyway."""
    found = place.stat()
    if os.geteuid() != 0 or found.st_uid == 0:
        return
    os.initgroups(pwd.getpwuid(found.st_uid).pw_name, found.st_gid)
    os.setgid(found.st_gid)
    os.setuid(found.st_uid)
