"""A storage server that really checks POST policies: Ceph radosgw over one monitor and one object daemon in memory."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
import urllib.error
import urllib.parse
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.system.processes import Peer, free_port

ACCESS_KEY = "RELAYDTEST"
SECRET_KEY = "only-known-to-this-test"

CONFIGURATION = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{port}
auth cluster required = none
auth service required = none
auth client required = none
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
ms mon client mode = crc
public network = 127.0.0.0/8
run dir = {folder}
admin socket = {folder}/$name.$pid.asok
log file = {folder}/$name.log
log to stderr = false
debug ms = 0
[mon]
mon data = {folder}/mon
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail warn = 0
mon data avail crit = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon max pg per osd = 2000
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd class load list = *
osd class default list = *
[client]
rgw dynamic resharding = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
rgw run sync thread = false
rgw enable usage log = false
rgw thread pool size = 16
"""


@dataclass(frozen=True, slots=True)
class Storage:
    """A running radosgw with one user."""

    url: str

    def request(self, method: str, path: str, query: str = "") -> tuple[int, bytes]:
        """One request signed with AWS signature version 2 by hand, to make buckets and read objects back."""
        date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        text = f"{method}\n\n\n{date}\n{path}"
        signature = b64encode(hmac.new(SECRET_KEY.encode(), text.encode(), hashlib.sha1).digest()).decode()
        request = urllib.request.Request(
            self.url + path + query,
            method=method,
            headers={"Date": date, "Authorization": f"AWS {ACCESS_KEY}:{signature}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def make_bucket(self, name: str) -> None:
        status, body = self.request("PUT", f"/{name}")
        assert status == 200, body

    def read(self, bucket: str, key: str) -> bytes | None:
        """The object's bytes, or None when there is none."""
        status, body = self.request("GET", f"/{bucket}/{urllib.parse.quote(key)}")
        return body if status == 200 else None


@contextmanager
def running(folder: Path) -> Iterator[Storage]:
    """radosgw and what it stands on, from nothing, in `folder`; all of it ends with the block."""
    peers: list[Peer] = []
    try:
        yield _start(folder, peers)
    finally:
        for peer in reversed(peers):
            peer.stop()


def _start(folder: Path, peers: list[Peer]) -> Storage:
    port, web_port, fsid = free_port(), free_port(), str(uuid.uuid4())
    conf = folder / "ceph.conf"
    conf.write_text(CONFIGURATION.format(fsid=fsid, port=port, folder=folder))
    for name in ("mon", "osd"):
        (folder / name).mkdir()

    def run(*arguments: str) -> None:
        done = subprocess.run(
            [arguments[0], "-c", str(conf), *arguments[1:]], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"

    monmap = str(folder / "monmap")
    run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{port}]", monmap)
    run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
    peers.append(Peer(["ceph-mon", "-c", str(conf), "-i", "a", "-f"], folder / "mon.out"))
    peers[-1].wait_for_port(port, seconds=30)
    osd_uuid = str(uuid.uuid4())
    run("ceph", "--connect-timeout", "30", "osd", "new", osd_uuid)
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_uuid)
    peers.append(Peer(["ceph-osd", "-c", str(conf), "-i", "0", "-f"], folder / "osd.out"))
    keys = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
    run("radosgw-admin", "user", "create", "--uid", "relayd", "--display-name", "relayd", *keys)
    frontend = f"beast endpoint=127.0.0.1:{web_port}"
    peers.append(
        Peer(["radosgw", "-c", str(conf), "-n", "client.rgw", "-f", "--rgw-frontends", frontend], folder / "rgw.out")
    )
    peers[-1].wait_for_port(web_port, seconds=60)
    return Storage(f"http://127.0.0.1:{web_port}")
