"""CPU and memory of one upload over TLS 1.3, our client beside curl: the same form, the same file, the same sink.

    python bench/upload.py             1 GiB, five rounds
    python bench/upload.py --size 256MiB --check     smaller ones are over too soon to be measured

Every measured upload is a process of its own; the sink is another one. CPU is user plus system time of the upload
alone: what a 1 MiB upload costs the same program (start, handshake) is taken off. The smallest of the rounds counts.
`--check` exits 1 if the CPU is more than 1.15 times curl's or the peak memory more than 4 MB above that of 1 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

import trustme

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relayd.fields import parse_size

CPU_LIMIT = 1.15
RSS_LIMIT_BYTES = 4_000_000
SMALL_BYTES = 1024 * 1024
FIELDS = [("key", "uploads/clip.mp4"), ("Content-Type", "video/mp4"), ("policy", "e30="), ("x-amz-signature", "0" * 64)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1GiB", type=parse_size, help="of the file")
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--check", action="store_true", help="exit 1 if a limit is missed")
    parser.add_argument("--role", choices=["sink", "client"], help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "sink":
        asyncio.run(sink(Path(options.rest[0])))
        return 0
    if options.role == "client":
        asyncio.run(client(options.rest[0], Path(options.rest[1]), Path(options.rest[2])))
        return 0
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as name:
        return compare(Path(name), options.size, options.rounds, is_check=options.check)


def compare(folder: Path, size: int, rounds: int, *, is_check: bool) -> int:
    """Measure both, print the table, and judge."""
    big, small = make_file(folder / "big.mp4", size), make_file(folder / "small.mp4", SMALL_BYTES)
    sinking = subprocess.Popen([sys.executable, __file__, "--role", "sink", str(folder)], stdout=subprocess.PIPE)
    assert sinking.stdout is not None
    url = f"https://localhost:{sinking.stdout.readline().decode().strip()}/bucket"
    try:
        runs: dict[tuple[str, Path], list[tuple[float, float]]] = {}
        for _ in range(rounds):  # in turn, so that a machine that changes its speed meets both alike
            for path in (small, big):
                for program in ("relayd", "curl"):
                    runs.setdefault((program, path), []).append(measure(program, url, path, folder))
    finally:
        sinking.terminate()
        sinking.wait()
    cpu = {program: least(runs[program, big], 0) - least(runs[program, small], 0) for program in ("relayd", "curl")}
    peak = {path: least(runs["relayd", path], 1) for path in (small, big)}
    ratio, growth = cpu["relayd"] / cpu["curl"], peak[big] - peak[small]
    print(f"{size / 2**20:.0f} MiB over TLS 1.3, best of {rounds}")
    print(f"  CPU   relayd {cpu['relayd']:.3f} s   curl {cpu['curl']:.3f} s   ratio {ratio:.2f} (limit {CPU_LIMIT})")
    print(
        f"  peak memory   relayd {peak[big] / 1e6:.1f} MB, {growth / 1e6:+.1f} MB against 1 MiB "
        f"(limit {RSS_LIMIT_BYTES / 1e6:.0f})   curl {least(runs['curl', big], 1) / 1e6:.1f} MB"
    )
    is_good = ratio <= CPU_LIMIT and growth <= RSS_LIMIT_BYTES
    return 1 if is_check and not is_good else 0


def least(runs: list[tuple[float, float]], column: int) -> float:
    return min(run[column] for run in runs)


def make_file(path: Path, size: int) -> Path:
    """Content that does not compress, in the page cache."""
    block = os.urandom(1024 * 1024)
    with path.open("wb") as stream:
        for start in range(0, size, len(block)):
            stream.write(block[: size - start])
    return path


def measure(program: str, url: str, path: Path, folder: Path) -> tuple[float, float]:
    """CPU seconds and peak resident bytes of one process that uploads one file."""
    if program == "relayd":
        command = [sys.executable, __file__, "--role", "client", url, str(path), str(folder)]
    else:
        fields = [part for name, value in FIELDS for part in ("-F", f"{name}={value}")]
        command = ["curl", "-sS", "--tlsv1.3", "--http1.1", "-H", "Expect:", "--cacert", str(folder / "ca.pem")]
        command += ["-w", "%{http_code}", *fields, "-F", f"file=@{path};type=video/mp4", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode != 0 or "204" not in said:
        raise SystemExit(f"{program} failed: {said}")
    if program == "relayd":
        found = json.loads(said)
        return found["cpu"], found["peak"]
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024.0


async def client(url: str, path: Path, folder: Path) -> None:
    """One upload by the code that delivers, and what it cost."""
    from relayd.addressguard import AddressGuard
    from relayd.httpclient import HttpClient
    from relayd.httpconfig import HttpConfig
    from relayd.s3form import Form
    from relayd.s3storage import Storage

    api = HttpClient(HttpConfig(url=url, ca_file=folder / "ca.pem"))
    storage = Storage(api, AddressGuard())
    form = Form(fields=FIELDS, file_name=path.name, content_type="video/mp4", size_bytes=path.stat().st_size)
    answer = await storage.post(url, form, lambda: path.open("rb", buffering=0))
    await api.close()
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({"status": answer.status, "cpu": cpu, "peak": used.ru_maxrss * 1024.0}))


class Sink(asyncio.Protocol):
    """Reads one request, drops its body, says 204."""

    def __init__(self) -> None:
        self._head = b""
        self._left = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            self._head += data
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            lines = (line.partition(b":") for line in head.split(b"\r\n"))
            self._left = next(int(value) for name, _, value in lines if name.lower() == b"content-length")
            data = body
        self._left -= len(data)
        if self._left == 0:
            self._transport.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            self._transport.close()


async def sink(folder: Path) -> None:
    """Serve until terminated; prints the port, leaves `ca.pem` in the folder."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    authority.issue_cert("localhost").configure_cert(context)
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
