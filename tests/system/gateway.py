"""A gateway as a technician leaves it: relayd installed from its package, configured, a sandbox to deliver to.

The configuration is written as the README says; what is different is said where it is made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.system.machine import Machine

DROP = "/srv/cameras/front"
STORED = "/srv/sandbox"
SECRET = "sandbox-secret"  # what the stand-in expects: what is tried is where it is kept

CONFIG = """\
[device]
id = "amb-0417"

[source.front-camera]
type = "folder"
path = "/srv/cameras/front"

[destination.rapidsos]
type = "rapidsos"
url = "http://127.0.0.1:8490"
client_id = "sandbox"
client_secret = { credential = "rapidsos" }

[[rule]]
name = "everything"
from = ["front-camera"]
deliver = [ { to = "rapidsos" } ]
"""

ASK = """
import json, sys, urllib.request
body = sys.argv[2].encode() if len(sys.argv) > 2 else None
where = "http://127.0.0.1:8490/_sandbox/" + sys.argv[1]
request = urllib.request.Request(where, body, {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=20).read().decode())
"""


def install(machine: Machine, package: Path, *, options: str = "") -> str:
    """With the one command of the README; what it printed."""
    machine.write(f"/root/{package.name}", package.read_bytes())
    return machine.says(
        f"cd /root && DEBIAN_FRONTEND=noninteractive apt-get install -y {options} ./{package.name} 2>&1"
    )


def configure(machine: Machine, config: str = CONFIG) -> None:
    """The camera's folder, the configuration, the secret, and what the machine needs for them."""
    machine.run(f"useradd --system camera && install -d -o camera {DROP}")
    machine.write("/etc/relayd/relayd.toml", config)
    machine.run("relayd credential add rapidsos", stdin=SECRET + "\n")
    machine.run("relayd setup")


def override(machine: Machine, name: str, *lines: str) -> None:
    """A drop-in of the unit."""
    machine.write(f"/etc/systemd/system/relayd.service.d/{name}.conf", "\n".join(["[Service]", *lines, ""]))
    machine.run("systemctl daemon-reload")


def start_sandbox(machine: Machine) -> None:
    """The stand-in of RapidSOS, as a unit of its own."""
    machine.run(f"systemd-run --quiet --unit=sandbox relayd sandbox --state {STORED}")
    machine.wait(
        lambda: machine.run("true </dev/tcp/127.0.0.1/8490", check=False).returncode == 0, "the sandbox listens"
    )


def ask_sandbox(machine: Machine, what: str, body: dict[str, Any] | None = None) -> Any:
    """What the sandbox answers below `/_sandbox/`."""
    arguments = f"{what} '{json.dumps(body)}'" if body is not None else what
    return json.loads(machine.run(f"python3 - {arguments}", stdin=ASK).stdout)


def start(machine: Machine) -> None:
    """Configured, with a sandbox, started, and READY."""
    configure(machine)
    start_sandbox(machine)
    machine.run("systemctl start relayd")
    machine.wait_for_active()


def drop(machine: Machine, files: dict[str, bytes]) -> None:
    """Files appear in the drop folder, as a camera's finished ones."""
    for name, content in files.items():
        machine.write(f"{DROP}/.{name}.part", content)
        machine.path(f"{DROP}/.{name}.part").rename(machine.path(f"{DROP}/{name}"))


def stored(machine: Machine) -> dict[str, bytes]:
    """What reached the storage of the sandbox: name → content; an object written twice shows once."""
    index = machine.path(f"{STORED}/index.jsonl")
    if not index.exists():
        return {}
    last = {found["key"]: found for found in map(json.loads, index.read_text().splitlines())}
    return {key.rpartition("/")[2]: machine.path(found["file"]).read_bytes() for key, found in last.items()}


def wait_for_delivered(machine: Machine, count: int, *, seconds: float = 60.0) -> dict[str, Any]:
    """Until so many items are delivered and none waits; the status then."""

    def all_delivered() -> dict[str, Any]:
        status = machine.status()
        spool = status.get("spool", {})
        return status if (spool.get("delivered"), spool.get("pending")) == (count, 0) else {}

    found: dict[str, Any] = machine.wait(all_delivered, f"{count} items delivered", seconds=seconds)
    return found
