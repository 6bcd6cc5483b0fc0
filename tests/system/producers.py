"""The programs that write into drop folders in the field, each driven as a technician would: FTP servers and their
clients, copies over SSH, synchronizers, unpackers, recorders.

Each producer runs as a user of its own, never the relay's. It gets the media to hand over and returns what must have
arrived: path below the drop folder → what is expected of it. It raises if the producer itself saw an error.
"""

from __future__ import annotations

import ftplib
import hashlib
import http.server
import os
import shutil
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.system.processes import Peer, free_port, wait_until

WRITER = 65534
"""User and group of whatever writes: `nobody`, since scp asks the machine who it is."""
PAST = 1_790_000_000.0
"""When the media was made, where a producer hands times over."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """`captured_at` is None where the producer hands no time over."""

    sha256: str
    captured_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a producer works: `media` is what it hands over, by name; `work` is its own folder."""

    drop: Path
    work: Path
    media: Mapping[str, Path]

    @property
    def pictures(self) -> dict[str, Path]:
        return {name: path for name, path in self.media.items() if name.endswith(".jpg")}

    def expected(self, *, with_time: bool, names: Sequence[str] | None = None, below: str = "") -> dict[str, Expected]:
        """All of the media (or these) under its own names, whole."""
        chosen = self.media if names is None else {name: self.media[name] for name in names}
        return {
            f"{below}{name}": Expected(sha256=digest(path), captured_at=PAST if with_time else None)
            for name, path in chosen.items()
        }


Produce = Callable[[Place], dict[str, Expected]]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def as_writer(*command: str | Path) -> list[str]:
    """The same command, run by the writer."""
    return ["setpriv", f"--reuid={WRITER}", f"--regid={WRITER}", "--clear-groups", *map(str, command)]


def run(place: Place, *command: str | Path, seconds: float = 120.0) -> str:
    """Run it to its end as the writer; what it printed. Raises AssertionError if it complains by its exit code."""
    done = subprocess.run(
        as_writer(*command),
        cwd=place.work,
        env={**os.environ, "HOME": str(place.work)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def make_media(folder: Path) -> dict[str, Path]:
    """Real pictures and clips, all of them different, some of them large."""
    folder.mkdir()
    quiet = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-f", "lavfi"]
    noise = "testsrc2=size=640x480:rate=10,noise=alls=40:allf=t"
    subprocess.run([*quiet, "-i", noise, "-frames:v", "12", folder / "still%02d.jpg"], check=True)
    for name, options in (("clip.mp4", ["-c:v", "mpeg4"]), ("clip.ts", ["-c:v", "mpeg2video"])):
        subprocess.run([*quiet, "-i", noise, "-t", "4", *options, "-q:v", "2", folder / name], check=True)
    found = {path.name: path for path in sorted(folder.iterdir())}
    for path in found.values():
        os.utime(path, (PAST, PAST))
    return found


# --- FTP


@contextmanager
def vsftpd(place: Place) -> Iterator[int]:
    """A vsftpd whose anonymous user may write to the drop folder; its port."""
    port, config = free_port(), place.work / "vsftpd.conf"
    empty = place.work / "empty"
    empty.mkdir()
    settings = {
        "listen": "YES",
        "background": "NO",
        "listen_address": "127.0.0.1",
        "listen_port": port,
        "run_as_launching_user": "YES",
        "anonymous_enable": "YES",
        "no_anon_password": "YES",
        "anon_root": place.drop,
        "anon_umask": "022",
        "write_enable": "YES",
        "anon_upload_enable": "YES",
        "anon_mkdir_write_enable": "YES",
        "anon_other_write_enable": "YES",
        "anon_world_readable_only": "NO",
        "allow_writeable_chroot": "YES",
        "mdtm_write": "YES",
        "seccomp_sandbox": "NO",
        "secure_chroot_dir": empty,
        "xferlog_enable": "NO",
    }
    config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    os.chown(config, WRITER, WRITER)  # it reads no other
    server = Peer(as_writer("vsftpd", config), place.work / "vsftpd.log")
    try:
        server.wait_for_port(port, seconds=20)
        yield port
    finally:
        server.stop()


PYFTPDLIB = """
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
authorizer = DummyAuthorizer()
authorizer.add_user("cam", "cam", sys.argv[1], perm="elradfmwMT")
FTPHandler.authorizer = authorizer
FTPServer(("127.0.0.1", int(sys.argv[2])), FTPHandler).serve_forever()
"""


@contextmanager
def pyftpdlib(place: Place) -> Iterator[int]:
    """A pyftpdlib with the user cam; its port."""
    port, program = free_port(), place.work / "server.py"
    program.write_text(PYFTPDLIB)
    server = Peer(as_writer("/usr/bin/python3", program, place.drop, str(port)), place.work / "pyftpdlib.log")
    try:
        server.wait_for_port(port, seconds=20)
        yield port
    finally:
        server.stop()


def lftp_to_vsftpd(place: Place) -> dict[str, Expected]:
    with vsftpd(place) as port:
        names = " ".join(map(str, place.media.values()))
        run(place, "lftp", "-c", f"set cmd:fail-exit yes; open ftp://127.0.0.1:{port}; mput {names}")
    return place.expected(with_time=False)


def lftp_mirror_to_pyftpdlib(place: Place) -> dict[str, Expected]:
    """`mirror -R` sets the times afterwards."""
    source = next(iter(place.media.values())).parent
    with pyftpdlib(place) as port:
        run(
            place,
            "lftp",
            "-c",
            f"set cmd:fail-exit yes; open ftp://cam:cam@127.0.0.1:{port}; mirror -R {source} .",
        )
    return place.expected(with_time=True)


def curl_to_vsftpd(place: Place) -> dict[str, Expected]:
    with vsftpd(place) as port:
        for name, path in place.media.items():
            run(place, "curl", "-q", "-sS", "-T", path, f"ftp://127.0.0.1:{port}/day/{name}", "--ftp-create-dirs")
    return place.expected(with_time=False, below="day/")


def _session(port: int) -> ftplib.FTP:
    session = ftplib.FTP()
    session.connect("127.0.0.1", port, timeout=60)
    session.login("cam", "cam")
    session.voidcmd("TYPE I")
    return session


def camera_that_asks_after_the_upload(place: Place) -> dict[str, Expected]:
    """Stores, then asks for the size and sets the time, as many cameras do."""
    with pyftpdlib(place) as port, _session(port) as session:
        for name, path in place.media.items():
            with path.open("rb") as stream:
                session.storbinary(f"STOR {name}", stream)
            assert session.size(name) == path.stat().st_size
            session.sendcmd(f"MFMT {time.strftime('%Y%m%d%H%M%S', time.gmtime(PAST))} {name}")
    return {name: Expected(sha256=digest(path), captured_at=PAST) for name, path in place.media.items()}


def camera_that_renames_after_the_upload(place: Place) -> dict[str, Expected]:
    """Stores under a temporary name of its own, then renames."""
    with pyftpdlib(place) as port, _session(port) as session:
        for number, (name, path) in enumerate(place.media.items()):
            temporary = f"{name}{('_', '.inprogress', '.part')[number % 3]}"
            with path.open("rb") as stream:
                session.storbinary(f"STOR {temporary}", stream)
            session.rename(temporary, name)
    return place.expected(with_time=False)


def upload_that_is_cut_and_resumed(place: Place) -> dict[str, Expected]:
    """The connection breaks after 60 %, the client comes back with REST."""
    with pyftpdlib(place) as port:
        for name, path in place.media.items():
            content = path.read_bytes()
            cut = len(content) * 6 // 10
            session = _session(port)
            connection = session.transfercmd(f"STOR {name}")
            connection.sendall(content[:cut])
            connection.close()
            session.close()
            with _session(port) as again:
                rest = again.size(name) or 0
                connection = again.transfercmd(f"STOR {name}", rest)
                connection.sendall(content[rest:])
                connection.close()
                again.voidresp()
    return place.expected(with_time=False)


# --- SSH, without a network: the far side is started by a stand-in for `ssh`


def _ssh(place: Place) -> Path:
    """A program that is called as ssh is and runs the command here."""
    program = place.work / "ssh"
    program.write_text(
        "#!/bin/bash\n"
        "while [[ $1 == -* ]]; do\n"
        "  case $1 in -s) sftp=1; shift;; -[oplFiJcmbeDLRSWw]) shift 2;; --) shift; break;; *) shift;; esac\n"
        "done\n"
        "shift\n"
        "[[ $1 == -s ]] && { sftp=1; shift; }\n"
        "[[ $sftp || $* == sftp ]] && exec /usr/lib/openssh/sftp-server\n"
        f'cd "{place.drop}" && exec /bin/sh -c "$*"\n'
    )
    program.chmod(0o755)
    return program


def scp(place: Place) -> dict[str, Expected]:
    run(place, "scp", "-p", "-S", _ssh(place), *place.media.values(), f"vehicle:{place.drop}/")
    return place.expected(with_time=True)


def old_scp(place: Place) -> dict[str, Expected]:
    run(place, "scp", "-O", "-p", "-S", _ssh(place), *place.media.values(), f"vehicle:{place.drop}/")
    return place.expected(with_time=True)


def sftp(place: Place) -> dict[str, Expected]:
    batch = place.work / "batch"
    batch.write_text("".join(f"put -p {path} {place.drop}/{name}\n" for name, path in place.media.items()))
    run(place, "sftp", "-S", _ssh(place), "-b", batch, "vehicle")
    return place.expected(with_time=True)


def rsync(place: Place, *options: str) -> dict[str, Expected]:
    run(place, "rsync", "-t", "-e", _ssh(place), *options, *place.media.values(), f"vehicle:{place.drop}/")
    return place.expected(with_time=True)


# --- synchronizers, downloads, archives


def rclone(place: Place) -> dict[str, Expected]:
    source = next(iter(place.media.values())).parent
    run(place, "rclone", "copy", "--retries", "1", "--low-level-retries", "1", source, place.drop)
    return place.expected(with_time=True)


def rclone_to_ftp(place: Place) -> dict[str, Expected]:
    source = next(iter(place.media.values())).parent
    secret = run(place, "rclone", "obscure", "cam").strip()
    with pyftpdlib(place) as port:
        remote = f":ftp,host=127.0.0.1,port={port},user=cam,pass={secret}:"
        run(place, "rclone", "copy", "--retries", "1", "--low-level-retries", "1", source, remote)
    return place.expected(with_time=False)


def wget(place: Place) -> dict[str, Expected]:
    """Sets the time of the file from the server's after the last byte."""
    folder = next(iter(place.media.values())).parent
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, name="downloads", daemon=True).start()
        try:
            base = f"http://127.0.0.1:{server.server_address[1]}"
            addresses = [f"{base}/{name}" for name in place.media]
            run(place, "wget", "--no-proxy", "-q", "-P", place.drop, *addresses)
        finally:
            server.shutdown()
    return place.expected(with_time=True)


def unzip(place: Place) -> dict[str, Expected]:
    archive = place.work / "media.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for name, path in place.media.items():
            made.write(path, f"card/{name}")
    run(place, "unzip", "-q", archive, "-d", place.drop)
    return place.expected(with_time=True, below="card/")


def tar(place: Place) -> dict[str, Expected]:
    archive = place.work / "media.tar"
    folder = next(iter(place.media.values())).parent
    subprocess.run(["tar", "-cf", archive, "--owner=65534", "--group=65534", "-C", folder, *place.media], check=True)
    run(place, "tar", "-xf", archive, "-C", place.drop)
    return place.expected(with_time=True)


# --- recorders, whose files are known by what ffmpeg makes of them only after the fact


def gstreamer_stills(place: Place) -> dict[str, Expected]:
    """multifilesink writes a temporary file and renames it; its own copy shows what each has to be."""
    reference = place.work / "stills"
    reference.mkdir()
    os.chown(reference, WRITER, WRITER)
    pipeline = (
        "videotestsrc num-buffers=20 is-live=true pattern=snow ! video/x-raw,width=320,height=240,framerate=10/1"
        f" ! jpegenc ! tee name=t t. ! queue ! multifilesink location={place.drop}/g%03d.jpg"
        f" t. ! queue ! multifilesink location={reference}/g%03d.jpg"
    )
    said = run(place, "gst-launch-1.0", "-q", *pipeline.split())
    assert "ERROR" not in said, said
    return {path.name: Expected(sha256=digest(path)) for path in reference.iterdir()}


def ffmpeg_segments(place: Place, kind: str) -> dict[str, Expected]:
    """The segment muxer, in real time; the same packets go into a folder of its own."""
    reference = place.work / "segments"
    reference.mkdir()
    os.chown(reference, WRITER, WRITER)
    outputs = "|".join(
        f"[f=segment:segment_time=2:segment_format={kind}:reset_timestamps=1]{folder}/s%03d.{kind_name(kind)}"
        for folder in (place.drop, reference)
    )
    source = "testsrc2=size=320x240:rate=10"
    encoded = ["-c:v", "mpeg4", "-g", "10", "-bitexact", "-fflags", "+bitexact", "-map", "0:v", "-f", "tee", outputs]
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-re", "-f", "lavfi", "-i", source, "-t", "9", *encoded]
    said = run(place, *command)
    assert not said, said
    return {path.name: Expected(sha256=digest(path)) for path in reference.iterdir()}


def kind_name(kind: str) -> str:
    return {"mpegts": "ts", "mp4": "mp4", "avi": "avi"}[kind]


MOTION = """
daemon off
setup_mode off
log_level 4
log_file {work}/motion.log
target_dir {drop}
netcam_url file://{clip}
width 640
height 480
framerate 10
emulate_motion on
picture_output on
movie_output on
movie_codec mkv
snapshot_interval 1
webcontrol_port 0
stream_port 0
on_picture_save sha256sum %f >>{work}/saved
on_movie_end sha256sum %f >>{work}/saved
"""


def motion(place: Place) -> dict[str, Expected]:
    """Pictures, a clip, and a link `lastsnap.jpg` to the newest; its own hooks look at each file once it is saved."""
    config, saved = place.work / "motion.conf", place.work / "saved"
    config.write_text(MOTION.format(work=place.work, drop=place.drop, clip=place.media["clip.mp4"]))
    recorder = Peer(as_writer("motion", "-c", config), place.work / "motion.out")
    try:
        wait_until(
            lambda: saved.exists() and saved.read_text().count("\n") > 15,
            "some pictures are saved",
            seconds=60,
            alive=recorder.process,
        )
    finally:
        recorder.stop()
    lines = [line.split() for line in saved.read_text().splitlines()]
    return {Path(name).name: Expected(sha256=sha256) for sha256, name in lines}


SYNCTHING = """<configuration version="35">
<folder id="drop" path="{path}" type="{kind}" fsWatcherEnabled="true" fsWatcherDelayS="1">
<device id="{own}"></device><device id="{other}"></device></folder>
<device id="{own}"><address>dynamic</address></device>
<device id="{other}"><address>tcp://127.0.0.1:{other_port}</address></device>
<gui enabled="false"></gui>
<options><listenAddress>tcp://127.0.0.1:{port}</listenAddress><globalAnnounceEnabled>false</globalAnnounceEnabled>
<localAnnounceEnabled>false</localAnnounceEnabled><relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled>
<urAccepted>-1</urAccepted><crashReportingEnabled>false</crashReportingEnabled><startBrowser>false</startBrowser>
<reconnectionIntervalS>1</reconnectionIntervalS></options>
</configuration>
"""


def syncthing(place: Place) -> dict[str, Expected]:
    """Two of them; the receiving one writes into the drop folder."""
    source = place.work / "outbox"
    shutil.copytree(next(iter(place.media.values())).parent, source)
    subprocess.run(["chown", "-R", f"{WRITER}:{WRITER}", source], check=True)
    homes, ports = [place.work / "sender", place.work / "receiver"], [free_port(), free_port()]
    ids = []
    for home in homes:
        run(place, "syncthing", "generate", f"--home={home}", "--no-default-folder", "--skip-port-probing")
        ids.append(run(place, "syncthing", f"--home={home}", "--device-id").strip())
    peers = []
    try:
        for number, (home, path, kind) in enumerate(
            zip(homes, (source, place.drop), ("sendonly", "receiveonly"), strict=True)
        ):
            text = SYNCTHING.format(
                path=path,
                kind=kind,
                own=ids[number],
                other=ids[1 - number],
                port=ports[number],
                other_port=ports[1 - number],
            )
            (home / "config.xml").write_text(text)
            (path / ".stfolder").mkdir(exist_ok=True)
            peers.append(
                Peer(as_writer("syncthing", "serve", f"--home={home}", "--no-browser", "--verbose"), home / "log")
            )
        received = homes[1] / "log"
        wait_until(
            lambda: all(f'/ "{name}" (update file): Success' in received.read_text() for name in place.media),
            "everything is synchronized",
            seconds=60,
            alive=peers[1].process,
        )
        assert "puller" not in peers[1].log(), peers[1].log()
    finally:
        for peer in peers:
            peer.stop()
    return place.expected(with_time=True)


PRODUCERS: dict[str, Produce] = {
    "lftp to vsftpd": lftp_to_vsftpd,
    "curl to vsftpd": curl_to_vsftpd,
    "lftp mirror to pyftpdlib": lftp_mirror_to_pyftpdlib,
    "a camera that asks for the size": camera_that_asks_after_the_upload,
    "a camera that renames": camera_that_renames_after_the_upload,
    "an upload that is resumed": upload_that_is_cut_and_resumed,
    "scp": scp,
    "scp, old protocol": old_scp,
    "sftp": sftp,
    "rsync": rsync,
    "rsync --inplace": lambda place: rsync(place, "--inplace"),
    "rsync --delay-updates": lambda place: rsync(place, "--delay-updates"),
    "rsync --append": lambda place: rsync(place, "--append"),
    "rclone": rclone,
    "rclone to pyftpdlib": rclone_to_ftp,
    "wget": wget,
    "unzip": unzip,
    "tar": tar,
    "syncthing": syncthing,
    "motion": motion,
    "GStreamer": gstreamer_stills,
    "ffmpeg, MPEG-TS": lambda place: ffmpeg_segments(place, "mpegts"),
    "ffmpeg, MP4": lambda place: ffmpeg_segments(place, "mp4"),
}
