"""The Debian package as a file: built anew it is the same, for both machines, and nothing in it is odd."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from relayd.cli import COMMANDS
from tests.system.package import Package, build, output
from tests.system.processes import ROOT, installed

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

LIBRARIES_OF_LIBC = re.compile(r"(?:libc\.so\.6|libm\.so\.6|libpthread\.so\.0|libdl\.so\.2|librt\.so\.1|ld-linux-.*)")
GLIBCXX_OF_8 = {"3.4", *(f"3.4.{number}" for number in range(1, 26))}
MACHINES = {"amd64": "Advanced Micro Devices X86-64", "arm64": "AArch64"}


@pytest.fixture(scope="module", params=["amd64", "arm64"])
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    installed("system")
    return build(tmp_path_factory.mktemp("build"), request.param)


@pytest.fixture(scope="module")
def files(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package has in it."""
    return package.unpack(tmp_path_factory.mktemp("files"))


def elf_files(files: Path) -> list[Path]:
    return [path for path in files.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]


def readelf(option: str, path: Path) -> str:
    return output("readelf", "--wide", option, path)


def test_built_again_elsewhere_and_later_it_is_the_same_to_the_byte(package: Package, tmp_path: Path) -> None:
    first = hashlib.sha256(package.path.read_bytes()).hexdigest()

    again = build(tmp_path / "a longer path" / "deeper", package.field("Architecture"), umask=0o077)

    assert hashlib.sha256(again.path.read_bytes()).hexdigest() == first


def test_lintian_finds_nothing(package: Package) -> None:
    options = ("--fail-on=error,warning", "--allow-root", "--tag-display-limit=0", "--info")

    assert output("lintian", *options, package.changes) == ""


def test_every_compiled_part_is_for_the_machine_and_needs_only_what_the_package_depends_on(
    package: Package, files: Path
) -> None:
    found = elf_files(files)

    assert len(found) > 5
    for path in found:
        assert MACHINES[package.field("Architecture")] in readelf("--file-header", path)
        needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("--dynamic", path)))
        assert {name for name in needed if not LIBRARIES_OF_LIBC.fullmatch(name)} <= {
            "libgcc_s.so.1",
            "libstdc++.so.6",
        }, path
        versions = [
            tuple(map(int, one.split("."))) for one in re.findall(r"GLIBC_([0-9.]+)", readelf("--version-info", path))
        ]
        assert max(versions) <= (2, 28), path
        assert set(re.findall(r"GLIBCXX_([0-9.]+)", readelf("--version-info", path))) <= GLIBCXX_OF_8, path
    assert {"libc6", "libgcc-s1", "libstdc++6", "python3", "python3-systemd"} <= set(package.needed_packages())
    assert "libc6 (>= 2.28), libgcc-s1, libstdc++6 (>= 8)" in package.field("Depends")


def test_it_depends_on_the_one_python_that_its_compiled_parts_are_for(package: Package, files: Path) -> None:
    tags = {match[1] for path in elf_files(files) if (match := re.search(r"\.cpython-3(\d+)-", path.name))}

    (minor,) = tags
    assert f"python3 (>= 3.{minor}), python3 (<< 3.{int(minor) + 1})" in package.field("Depends")


def test_only_packages_of_the_lock_are_in_it_at_their_pinned_versions_and_each_with_its_licence(files: Path) -> None:
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M))
    hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", (ROOT / "requirements.lock").read_text()))
    bill = json.loads((files / "usr/share/doc/relayd/relayd.cdx.json").read_text())
    folders = list((files / "usr/lib/relayd").glob("*.dist-info"))

    for one in bill["components"]:
        assert pinned[one["name"]] == one["version"]
        assert {item["content"] for item in one["hashes"]} <= hashes
        assert one["licenses"][0].get("expression") or one["licenses"][0]["license"]["name"]
        name = one["name"].replace("-", "_")
        (folder,) = (
            path for path in (files / "usr/lib/relayd").glob("*.dist-info") if path.name.lower().startswith(f"{name}-")
        )
        assert [path for path in folder.rglob("*") if re.match(r"(?i)licen[sc]e|copying|notice", path.name)], folder
    assert len(bill["components"]) == len(folders)


def test_nothing_is_in_it_that_only_building_or_testing_needs(files: Path) -> None:
    private = files / "usr/lib/relayd"

    assert not [path for path in private.rglob("*") if path.name in ("__pycache__", "tests", "bin")]
    assert not {"hatchling", "pytest", "pip", "packaging"} & {path.name for path in private.iterdir()}
    assert sorted(path.name for path in (files / "usr/bin").iterdir()) == ["relayd"]
    assert (files / "usr/bin/relayd").read_text().splitlines()[0] == "#!/usr/bin/python3 -I"


def test_the_manual_reads_without_a_complaint_and_names_every_command(files: Path) -> None:
    environment = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "MANWIDTH": "120"}
    pages = [files / "usr/share/man/man8/relayd.8.gz", files / "usr/share/man/man5/relayd.toml.5.gz"]

    commands, configuration = (
        output("man", "--warnings", "--encoding=UTF-8", "--local-file", page, environment=environment) for page in pages
    )

    for name in COMMANDS:
        assert re.search(rf"^ +relayd {name}$", commands, re.M), name
    assert "SEE ALSO" in configuration


def test_completions_examples_and_documents_are_where_shells_and_people_look(files: Path) -> None:
    for place in (
        "usr/share/bash-completion/completions/relayd",
        "usr/share/zsh/vendor-completions/_relayd",
        "usr/share/fish/vendor_completions.d/relayd.fish",
        "usr/share/doc/relayd/README.md",
        "usr/share/doc/relayd/relayd.toml",
        "usr/share/doc/relayd/config.schema.json",
        "usr/share/doc/relayd/examples/vehicle.toml",
        "usr/share/doc/relayd/examples/site.toml",
    ):
        assert (files / place).stat().st_size, place
    assert not (files / "etc/relayd").exists()
