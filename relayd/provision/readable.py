"""Files that the service must be able to read: its configuration, secrets, certificates.

Promises: what lies below /etc/relayd is given to group `relayd`; of any other file only the command is said. A secret
that everybody can read is said, and closed where it is ours.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from relayd.config import Config, Loaded
from relayd.config.named import NamedSecret
from relayd.files import printable
from relayd.provision.account import NAME, Account
from relayd.provision.step import Left, Step

OURS = Path("/etc/relayd")
CERTIFICATES = ("ca_file", "cert_file", "key_file")


def readable_steps(
    loaded: Loaded, secrets: Sequence[NamedSecret], account: Account | None, root: Path
) -> Iterator[Step | Left]:
    """What is to be done about every file that the configuration consists of or names."""
    for secret in secrets:
        if secret.kind == "env":
            yield Left(
                f"{secret.key}: the service has no variable {secret.name}",
                'relayd credential add NAME, and write { credential = "NAME" }',
            )
        elif secret.kind == "file":
            path = root / secret.name.lstrip("/")
            if not path.exists():
                yield Left(f"{secret.key}: {printable(secret.name)} is not there yet", "write the secret into it")
            elif account is not None:
                yield from _secret(path, secret.key, account)
    if account is None:
        return
    for path in loaded.files:
        yield from _readable(path, "the configuration", account)
    for key, path in _certificates(loaded.config):
        if path.exists():
            yield from _readable(path, key, account)
        else:
            yield Left(f"{key}: {printable(str(path))} is not there", "put it there, or correct the path")


def _secret(path: Path, key: str, account: Account) -> Iterator[Step | Left]:
    if not account.may(path, "r"):
        yield from _readable(path, key, account)
    elif path.stat().st_mode & 0o007:
        shown = f"{key}: everybody may read {printable(str(path))}"
        if path.is_relative_to(OURS):
            yield Step(f"{shown}: only root and group {NAME} from now on", partial(_close, path, account))
        else:
            yield Left(shown, f"chmod o= {_quoted(path)}")


def _readable(path: Path, key: str, account: Account) -> Iterator[Step | Left]:
    if account.may(path, "r"):
        return
    if not path.is_relative_to(OURS) or path.is_symlink():
        shown = _quoted(path)
        yield Left(
            f"{key}: user {NAME} cannot read {printable(str(path))}",
            f"chgrp {NAME} {shown} && chmod g+r {shown}, and let it pass through the folders above",
        )
        return
    yield Step(f"{key}: group {NAME} may read {printable(str(path))}", partial(_close, path, account))


def _close(path: Path, account: Account) -> None:
    """Root and the group, nobody else; and the group may pass through the folders of ours above it."""
    os.chown(path, -1, account.gid)
    path.chmod(path.stat().st_mode & 0o600 | 0o040)
    for above in path.parents:
        if above.is_relative_to(OURS) and above != OURS and not account.may(above, "x", is_from_inside=True):
            os.chown(above, -1, account.gid)
            above.chmod(above.stat().st_mode & 0o707 | 0o050)
    if not account.may(OURS, "x", is_from_inside=True):
        os.chown(OURS, -1, account.gid)
        OURS.chmod(OURS.stat().st_mode & 0o707 | 0o050)


def _certificates(config: Config) -> Iterator[tuple[str, Path]]:
    sections = [(f"broker.{name}", one) for name, one in config.broker.items()]
    for label, section in [*sections, *((f"destination.{name}", one) for name, one in config.destination.items())]:
        for key in CERTIFICATES:
            path = getattr(section, key, None)
            if isinstance(path, Path):
                yield f"{label}.{key}", path


def _quoted(path: Path) -> str:
    return shlex.quote(printable(str(path)))
