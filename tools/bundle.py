#!/usr/bin/env python3
"""tools/bundle.py FOLDER WHEELS: makes of what pip put into FOLDER, from WHEELS, what the Debian package carries.

Takes out what relayd does not run on (what only builds it, sources of compiled parts, records of this installation) and
writes FOLDER/../relayd.cdx.json, the bill of materials (CycloneDX). Needs nothing but the standard library.
Promises: the same wheels give the same bytes; a dependency that is missing or that nobody asked for is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tomllib
import uuid
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
USELESS = (
    "*.pyi",
    "*.pyx",
    "*.pxd",
    "*.pxi",
    "*.c",
    "*.h",
    "*.hash",
    "py.typed",
    "_testcapi*",
    "RECORD",
    "INSTALLER",
    "REQUESTED",
    "direct_url.json",
)
BUILD_ONLY = frozenset({"hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers", "tomlkit"})
"""What the lock has for building; anything else that nobody asks for would be a mistake in the lock."""


def bundle(folder: Path, wheels: Path) -> None:
    """Leave in `folder` what relayd runs on, and write the bill of materials beside it."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    found = {normal(one.metadata["Name"]): one for one in distributions(path=[str(folder)])}
    needed = _needed(project["dependencies"], found)
    for name in found.keys() - needed:
        if name not in BUILD_ONLY:
            raise SystemExit(f"tools/bundle.py: {name} is in the lock, but nothing that relayd depends on asks for it")
        _remove(found[name], folder)
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for pattern in USELESS:
        for path in folder.rglob(pattern):
            path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and (path.name in ("tests", "__pycache__") or not any(path.iterdir())):
            shutil.rmtree(path)
    for path in folder.rglob("*.py"):
        if (text := path.read_bytes()).startswith(b"#!"):
            path.write_bytes(text.replace(b"!", b"", 1))  # a library is no script, and names no interpreter
    bill = _bill(project, [found[name] for name in sorted(needed)], wheels)
    (folder.parent / "relayd.cdx.json").write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _needed(requirements: Iterable[str], found: dict[str, Distribution]) -> set[str]:
    """The packages that these requirements lead to. Extras and other platforms are not asked for by anything."""
    needed: set[str] = set()
    queue = [normal(match[0]) for one in requirements if (match := re.match(r"[A-Za-z0-9._-]+", one))]
    while queue:
        name = queue.pop()
        if name in needed:
            continue
        needed.add(name)
        if name not in found:
            raise SystemExit(f"tools/bundle.py: {name} is needed and not there")
        for one in found[name].requires or ():
            requirement, _, marker = one.partition(";")
            match = re.match(r"[A-Za-z0-9._-]+", requirement)
            if match and (not marker or normal(match[0]) in found) and "extra ==" not in marker:
                queue.append(normal(match[0]))
    return needed


def _remove(distribution: Distribution, folder: Path) -> None:
    """Take out every file of an installed package."""
    for file in distribution.files or ():
        path = (folder / file).resolve()
        if path.is_relative_to(folder.resolve()):
            path.unlink(missing_ok=True)


def _bill(project: dict[str, Any], parts: list[Distribution], wheels: Path) -> dict[str, Any]:
    """CycloneDX 1.5: relayd, and each package in it with its licence and the hash of the wheel it came from."""
    digests = {_wheel_key(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels.glob("*.whl")}
    components = []
    for part in parts:
        name, version = normal(part.metadata["Name"]), part.version
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
        }
        component["hashes"] = [{"alg": "SHA-256", "content": digests[name, version]}]
        component["licenses"] = [_licence(part)]
        component["purl"] = f"pkg:pypi/{name}@{version}"
        components.append(component)
    root = f"pkg:deb/relayd@{project['version']}"
    depends = [
        {"ref": root, "dependsOn": [one["bom-ref"] for one in components]},
        *({"ref": one["bom-ref"]} for one in components),
    ]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components))
    own = {"type": "application", "bom-ref": root, "name": "relayd", "version": project["version"], "purl": root}
    own_licence = {"licenses": [{"license": {"id": project["license"]}}]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": own | own_licence},
        "components": components,
        "dependencies": depends,
    }


def _wheel_key(path: Path) -> tuple[str, str]:
    name, version = path.name.split("-")[:2]
    return normal(name), version


def _licence(part: Distribution) -> dict[str, Any]:
    """As the package says it: an SPDX expression, or else its own words."""
    said = part.metadata.get_all("License-Expression", [])
    if said:
        return {"expression": said[0]}
    classifiers = [
        one.rpartition(" :: ")[2] for one in part.metadata.get_all("Classifier", []) if one.startswith("License ::")
    ]
    words = classifiers[0] if classifiers else part.metadata.get_all("License", [""])[0].splitlines()[0]
    return {"license": {"name": words}}


if __name__ == "__main__":
    bundle(Path(sys.argv[1]), Path(sys.argv[2]))
