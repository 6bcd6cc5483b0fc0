"""Where the secrets of `{ credential = "name" }` lie, and how to read them where systemd has not laid them out.

systemd hands a service its credentials in `$CREDENTIALS_DIRECTORY`. A technician at a terminal has none: there the same
secrets are read from where `relayd credential add` stores them, or from those of the running service.

Promises: no secret is written anywhere by this room; what cannot be read is said with the reason and the remedy.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

from relayd.errors import SecretMissing

PLAIN_FOLDER = Path("/etc/relayd/credentials")
ENCRYPTED_FOLDER = Path("/etc/credstore.encrypted")
ENCRYPTED_BEGINNING = "relayd."
RUNNING_FOLDER = Path("/run/credentials/relayd.service")
"""Where systemd lays them out for the running service."""
TOOL_SECONDS = 60.0
_FAREWELL_LETTERS = 300

_typed: ContextVar[Mapping[tuple[str, str], str]] = ContextVar("typed", default=MappingProxyType({}))


@contextlib.contextmanager
def holding(values: Mapping[tuple[str, str], str]) -> Iterator[None]:
    """Within it, these secrets count as stored: `("credential", NAME)` or `("file", PATH)` → value. For `relayd init`,
    which tries a secret before it stores it."""
    token = _typed.set(values)
    try:
        yield
    finally:
        _typed.reset(token)


def held(kind: str, name: str) -> str | None:
    """The value of a secret that was typed and is not stored yet."""
    return _typed.get().get((kind, name))


def read_credential(name: str) -> bytes:
    """What the credential holds, read now. Raises SecretMissing with the remedy."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder is not None:
        try:
            return (Path(folder) / name).read_bytes()
        except OSError as error:
            raise SecretMissing(
                f"credential {name} was not handed over by systemd ({error.strerror}): "
                f"run `relayd credential add {name}`, then restart the service"
            ) from None
    return _read_outside_a_service(name)


def _read_outside_a_service(name: str) -> bytes:
    is_closed = False
    for read in (_decrypted, _plain, _of_the_running_service):
        try:
            return read(name)
        except FileNotFoundError:
            continue
        except PermissionError:
            is_closed = True
        except OSError as error:
            raise SecretMissing(f"credential {name} cannot be read: {error.strerror}") from None
    if is_closed:
        raise SecretMissing(f"credential {name} can be read by the service and by root only: run this with sudo")
    raise SecretMissing(f"there is no credential {name}: run `relayd credential add {name}`")


def plain_place(name: str, root: Path = Path("/")) -> Path:
    """Where it is stored as it is, readable by root only."""
    return root / PLAIN_FOLDER.relative_to("/") / name


def encrypted_place(name: str) -> Path:
    """Where it is stored encrypted; other services keep theirs in the same folder."""
    return ENCRYPTED_FOLDER / f"{ENCRYPTED_BEGINNING}{name}"


def _plain(name: str) -> bytes:
    return plain_place(name).read_bytes()


def _of_the_running_service(name: str) -> bytes:
    return (RUNNING_FOLDER / name).read_bytes()


def _decrypted(name: str) -> bytes:
    """By systemd-creds, to a pipe. Raises OSError if there is none to decrypt, SecretMissing if that fails."""
    encrypted = encrypted_place(name).read_bytes()
    try:
        return systemd_creds("decrypt", name, encrypted)
    except OSError as error:
        if os.geteuid() != 0:
            raise PermissionError from None
        raise SecretMissing(
            f"credential {name} cannot be decrypted on this machine ({error}): "
            f"run `relayd credential add {name}` to store it again"
        ) from None


def systemd_creds(verb: str, name: str, content: bytes, *options: str) -> bytes:
    """`encrypt` or `decrypt`, from pipe to pipe. Raises OSError: it is not there, takes too long or refuses."""
    command = ["systemd-creds", verb, f"--name={name}", *options, "-", "-"]
    try:
        ran = subprocess.run(command, input=content, capture_output=True, timeout=TOOL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"systemd-creds did not end within {TOOL_SECONDS:.0f} s") from None
    if ran.returncode != 0:
        said = ran.stderr.decode("utf-8", "replace").strip().splitlines()
        raise OSError(said[-1][:_FAREWELL_LETTERS] if said else f"systemd-creds ended with {ran.returncode}")
    return ran.stdout
