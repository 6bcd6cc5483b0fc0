"""Fixtures of the folder tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources.rig import Store

NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The drop folder."""
    path = tmp_path / "drop"
    path.mkdir()
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Where things go, on the same file system."""
    path = tmp_path / "store"
    path.mkdir()
    return Store(path)


@pytest.fixture
def without_rights() -> Iterator[Path]:
    """A folder to work in, and no more rights than any user has, even if the tests are run by root."""
    path = Path(tempfile.mkdtemp(prefix="relayd-test-"))
    is_root = os.geteuid() == 0
    try:
        path.chmod(0o755)
        if is_root:
            os.chown(path, NOBODY, NOBODY)
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        yield path
    finally:
        if is_root:
            os.seteuid(0)
            os.setegid(0)
        for sub in path.glob("**/"):
            sub.chmod(0o755)
        shutil.rmtree(path)
