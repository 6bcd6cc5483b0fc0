"""Builds the Debian package from this checkout, or from one made to look older or newer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.system.processes import ROOT

FOLDERS = ("config", "debian", "relayd", "systemd", "tools")
FILES = ("LICENSE", "README.md", "pyproject.toml", "requirements.lock")


@dataclass(frozen=True)
class Package:
    """A built .deb, and the .changes beside it that lintian reads."""

    path: Path
    changes: Path

    def field(self, name: str) -> str:
        """A field of its control file."""
        return subprocess.run(
            ["dpkg-deb", "--field", self.path, name], capture_output=True, text=True, check=True
        ).stdout.strip()

    def unpack(self, folder: Path) -> Path:
        """Its files, below `folder`."""
        subprocess.run(["dpkg-deb", "--extract", self.path, folder], check=True)
        return folder

    def needed_packages(self) -> list[str]:
        """What it depends on, by name: the first of alternatives."""
        return sorted({re.split(r"[ :(|]", one.strip())[0] for one in self.field("Depends").split(",")})


def build(work: Path, arch: str, *, tree: Path = ROOT, umask: int = 0o022) -> Package:
    """What `make deb` builds, with its working files in `work`."""
    done = subprocess.run(
        [tree / "tools/deb", arch, work],
        capture_output=True,
        text=True,
        umask=umask,
        stdin=subprocess.DEVNULL,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = tree / done.stdout.splitlines()[-1]
    return Package(made, work / arch / made.with_suffix(".changes").name)


def native() -> str:
    """The architecture of this machine, by Debian's name."""
    return output("dpkg", "--print-architecture").strip()


def tree_of_version(version: str, folder: Path) -> Path:
    """A copy of this checkout whose package has another version."""
    folder.mkdir(parents=True)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, folder / name)
    (folder / "build").mkdir()
    if (ROOT / "build/wheels").exists():
        os.symlink(ROOT / "build/wheels", folder / "build/wheels")
    for place, pattern, text in (
        ("debian/changelog", r"\A(relayd) \([^)]*\)", rf"\1 ({version})"),
        ("relayd/__init__.py", r'__version__ = "[^"]*"', f'__version__ = "{version}"'),
        ("pyproject.toml", r'(?m)^version = "[^"]*"', f'version = "{version}"'),
    ):
        changed, count = re.subn(pattern, text, (folder / place).read_text())
        assert count == 1, place
        (folder / place).write_text(changed)
    return folder


def output(*command: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints that must succeed without a complaint."""
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
