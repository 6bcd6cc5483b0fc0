"""Where the spool is and how much it may take: only asked where the defaults do not fit this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relayd.config.online import try_spool
from relayd.config.words import size_text, validate
from relayd.files import printable
from relayd.first_config.console import Console
from relayd.first_config.draft import Draft
from relayd.spool import SpoolConfig

MEGABYTE = 10**6


def ask_room(console: Console, draft: Draft, output: Path, *, is_system: bool) -> None:
    """Look at the disk; ask until it fits, or is kept. Who is not root gets a spool beside the configuration."""
    console.say()
    spool: dict[str, Any] = {} if is_system or os.geteuid() == 0 else {"path": str(output.parent / "spool")}
    while True:
        finding = try_spool(SpoolConfig.model_validate(spool))
        if finding.is_good:
            console.say(f"ok the spool: {printable(finding.text)}", indent=2)
            break
        console.say(f"FAILED the spool: {printable(finding.text)} -> {printable(finding.remedy)}", indent=2)
        if (
            console.choose("What now", [("change", "its place and limits"), ("keep", "the defaults")], default="change")
            == "keep"
        ):
            break
        spool = _asked(console, spool)
    if spool:
        draft.single["spool"] = spool


def _asked(console: Console, before: dict[str, Any]) -> dict[str, Any]:
    path = console.ask("Folder of the spool", _fits("path"), default=before.get("path", str(SpoolConfig().path)))
    free_bytes = _free_bytes(Path(path))
    # Round figures: half of what is free for the spool, a tenth of it for others.
    room = {"max_size": free_bytes // 2, "min_free": free_bytes // 10}
    spool = {"path": path} if path != str(SpoolConfig().path) else {}
    for key, usual in room.items():
        about = (SpoolConfig.model_fields[key].description or "").rstrip(".")
        proposed = size_text(max(MEGABYTE, usual // MEGABYTE * MEGABYTE))
        spool[key] = console.ask(f"{key}: {about}", _fits(key), default=proposed)
    return {**spool, "min_free_percent": 0.5}


def _fits(key: str) -> Callable[[str], str]:
    def checked(answer: str) -> str:
        for _, said in validate(SpoolConfig, {key: answer}, ())[1]:
            raise ValueError(said)
        return answer

    return checked


def _free_bytes(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free
