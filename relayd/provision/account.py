"""The user that the service runs as, and what it may do: asked of the kernel, as that user."""

from __future__ import annotations

import grp
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAME = "relayd"
TEST_SECONDS = 20.0
_LETTERS = frozenset("rwxedf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Numbers of the user, its group and the other groups it is in."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @classmethod
    def of_service(cls) -> Account | None:
        """The one on this machine; None if it is not there."""
        try:
            entry = pwd.getpwnam(NAME)
        except KeyError:
            return None
        others = tuple(group.gr_gid for group in grp.getgrall() if NAME in group.gr_mem)
        return cls(uid=entry.pw_uid, gid=entry.pw_gid, groups=others)

    def may(self, path: Path, letters: str, *, is_from_inside: bool = False) -> bool:
        """Whether all of `letters` (as test(1) has them: r, w, x) hold for the user. Only root can ask.

        `is_from_inside`: the folder itself, whatever is above it.
        """
        if not _LETTERS.issuperset(letters):
            raise ValueError(letters)
        name = "." if is_from_inside else str(path)
        script = " && ".join(f'test -{letter} "$1"' for letter in letters)
        ran = subprocess.run(
            ["/bin/sh", "-c", script, "sh", name],
            cwd=path if is_from_inside else "/",
            user=self.uid,
            group=self.gid,
            extra_groups=list(self.groups),
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TEST_SECONDS,
            check=False,
        )
        return ran.returncode == 0
