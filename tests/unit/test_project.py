"""The project's own files agree with each other: locks, packages, the targets that people type."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPTS = ["tools/need", "tools/venv", "tools/lock", "tools/deb", "tools/platforms", ".ci/run"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str | dict[str, str]]) -> set[str]:
    """The packages that a list of requirements names; included groups are followed."""
    found = set()
    for requirement in requirements:
        if isinstance(requirement, dict):
            found |= names(PROJECT["dependency-groups"][requirement["include-group"]])
        else:
            found.add(normal(re.split(r"[\[<>=!~; ]", requirement)[0]))
    return found


def pinned(lock: str) -> dict[str, str]:
    """Package → version, as a lock file pins them."""
    text = (ROOT / lock).read_text()
    return {normal(name): version for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE)}


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_package_that_relayd_needs_is_pinned(lock: str) -> None:
    wanted = names(PROJECT["project"]["dependencies"]) | names(PROJECT["dependency-groups"]["build"])
    if lock == "requirements-dev.lock":
        wanted |= names(PROJECT["dependency-groups"]["dev"])

    assert wanted - pinned(lock).keys() == set(), "run tools/lock --keep"


def test_both_locks_pin_the_same_versions() -> None:
    dev = pinned("requirements-dev.lock")

    assert {name: dev.get(name) for name in pinned("requirements.lock")} == pinned("requirements.lock")


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_pinned_package_has_hashes_and_no_lock_names_a_registry(lock: str) -> None:
    text = (ROOT / lock).read_text()
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]

    assert len(blocks) == len(pinned(lock))
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert "--index" not in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_executable_and_parses(script: str) -> None:
    path = ROOT / script

    assert path.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", path]).returncode == 0


def test_the_version_is_one_everywhere() -> None:
    import relayd

    first_line = (ROOT / "debian" / "changelog").read_text().splitlines()[0]

    assert relayd.__version__ == PROJECT["project"]["version"]
    assert f"({relayd.__version__})" in first_line
