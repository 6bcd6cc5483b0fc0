"""The chapter "The first hour" of the README, typed command by command into a fresh Debian 12."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.system import gateway
from tests.system.machine import Machine, Ran, booted
from tests.system.package import Package
from tests.system.processes import ROOT

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

# A minimal Debian has no sudo; who types here is root already.
SUDO = """
sudo() { if [ "$1" = -u ]; then runuser -u "$2" -- "${@:3}"; else "$@"; fi; }
apt-get() { DEBIAN_FRONTEND=noninteractive command apt-get --yes "$@"; }
cd /root
"""
DEVICE = ["amb-0417", "", "", ""]
BROKER = [""]
FOLDER = [gateway.DROP, "", ""]
DESTINATION = ["rapidsos", "", "http://127.0.0.1:8490", "sandbox", "", "", gateway.SECRET, "done"]
ANSWERS = {
    "sudo relayd init": [*DEVICE, *BROKER, *FOLDER, *DESTINATION, "", "y"],
    "sudo relayd credential add rapidsos": [gateway.SECRET],
}
EXIT_CODES = {"systemctl status relayd": 3}  # of a service that does not run


def commands() -> list[str]:
    """Every command of the chapter, without its remark."""
    chapter = re.search(
        r"<!-- first hour: begin -->\n(.*?)<!-- first hour: end -->", (ROOT / "README.md").read_text(), re.S
    )
    assert chapter
    blocks = re.findall(r"^   ```sh\n(.*?)^   ```", chapter[1], re.M | re.S)
    return [re.sub(r"  +#.*", "", line.strip()) for block in blocks for line in block.splitlines()]


def typed(machine: Machine, command: str) -> Ran:
    """Type it, and what it asks for; it has to end as it should."""
    stdin = "".join(f"{line}\n" for line in ANSWERS.get(command, ()))
    done = machine.run(SUDO + command, check=False, stdin=stdin)
    told = f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    failed = re.findall(r"^ *FAILED  (\S+)", done.stdout, re.M)
    if failed == ["clock:"]:  # the machine has the clock of the one that it runs on, and that may be in no time service
        assert done.returncode == 1, told
    else:
        assert done.returncode == EXIT_CODES.get(command, 0), told
    return done


def test_the_first_hour_goes_as_the_readme_says(deb: Package, older_deb: Package, debian: Path, tmp_path: Path) -> None:
    said: dict[str, str] = {}
    with booted([debian], tmp_path / "machine") as machine:
        machine.write(f"/root/{older_deb.path.name}", older_deb.path.read_bytes())
        for command in commands():
            if command.startswith("sudo apt-get install") and said:
                machine.run("rm /root/relayd_*.deb")
                machine.write(f"/root/{deb.path.name}", deb.path.read_bytes())
            if command == "sudo relayd status":
                gateway.wait_for_delivered(machine, 1)
            said[command] = typed(machine, command).stdout
            if command == "sudo systemctl reload relayd":
                machine.wait(lambda: machine.status()["device"]["site"] == "odense", "the change is in force")
        logo = machine.path("/usr/share/pixmaps/debian-logo.png").read_bytes()

        assert said["relayd --version"] == f"relayd {deb.field('Version')}\n"
        assert "delivered" in said["sudo relayd items"]
        assert "debian-logo.png" in said["sudo relayd why /srv/cameras/front/debian-logo.png"]
        assert machine.run("pgrep -u relayd", check=False).stdout == ""
        stored = list(machine.path("/").glob("tmp/*/objects/*"))
        assert [one.read_bytes() for one in stored] == [logo]
