"""thingsboard-gateway as a contestant of ingest.py: its MQTT connector on the bench's broker, its SQLite storage.

Its "ThingsBoard server" is the same broker, which answers no request for session limits: so it stores and forwards
nothing. It acknowledges as soon as a message is in its memory, before it is stored: what it has stored is on disk,
what it has acknowledged need not be.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

START = "from thingsboard_gateway.tb_gateway import main; main()"
SAID = b"Gateway started."
LOGS = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}},
    "loggers": {
        name: {"level": "INFO", "handlers": ["console"], "propagate": False} for name in ("service", "connector")
    },
    "root": {"level": "INFO", "handlers": ["console"]},
}


class ThingsBoard:
    """One gateway below `folder`, with the python that has it installed."""

    def __init__(self, python: str, folder: Path, port: int) -> None:
        self._python = python
        self._folder = folder
        self._log = folder / "log"
        self._write_configuration(port)

    @property
    def is_installed(self) -> bool:
        look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('thingsboard_gateway') is None)"
        try:
            return subprocess.run([self._python, "-c", look], stderr=subprocess.DEVNULL).returncode == 0
        except OSError:
            return False

    def start(self) -> subprocess.Popen[bytes]:
        """It runs and has subscribed, and is stopped: what is published from now on waits for it at the broker."""
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [self._python, "-c", START],
                cwd=self._folder,
                env={**os.environ, "TB_GW_CONFIG_DIR": str(self._folder)},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while SAID not in (said := self._log.read_bytes()) or b"subscription success" not in said:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise SystemExit(f"thingsboard-gateway does not start:\n{said.decode(errors='replace')[-2000:]}")
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(signal.SIGSTOP)
        return process

    def stored(self) -> int:
        """How many messages it has ever committed to its storage."""
        db = sqlite3.connect(f"file:{self._folder}/data/data.db?mode=ro", uri=True, timeout=20)
        try:
            row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchone()
            return int(row[0]) if row else 0
        finally:
            db.close()

    def _write_configuration(self, port: int) -> None:
        self._folder.mkdir()
        device = {"Name": "bench", "Profile": "default"}
        info = {f"device{key}ExpressionSource": "constant" for key in device}
        info |= {f"device{key}Expression": value for key, value in device.items()}
        values = [
            {"type": "integer", "key": "n", "value": "${n}"},
            {"type": "string", "key": "pad", "value": "${pad}"},
        ]
        converter = {"type": "json", "deviceInfo": info, "timeout": 60000, "attributes": [], "timeseries": values}
        server = {
            "host": "127.0.0.1",
            "port": port,
            "remoteShell": False,
            "remoteConfiguration": False,
            "statistics": {"enable": False},
            "deviceFiltering": {"enable": False},
            "security": {"type": "accessToken", "accessToken": "bench"},
            "qos": 1,
            "checkConnectorsConfigurationInSeconds": 3600,
        }
        files = {
            "logs": LOGS,
            "tb_gateway": {
                "thingsboard": server,
                "storage": {"type": "sqlite", "data_file_path": f"{self._folder}/data/"},
                "grpc": {"enabled": False},
                "connectors": [{"name": "bench", "type": "mqtt", "configuration": "mqtt.json"}],
            },
            "mqtt": {
                "broker": {
                    "host": "127.0.0.1",
                    "port": port,
                    "clientId": "thingsboard-gateway",
                    "version": 4,
                    "cleanSession": False,
                    "security": {"type": "anonymous"},
                },
                "mapping": [{"topicFilter": "bench/#", "subscriptionQos": 1, "converter": converter}],
            },
        }
        for name, content in files.items():
            (self._folder / f"{name}.json").write_text(json.dumps(content))
