"""POSIX access lists by their extended attributes, so that no setfacl need be there.

Promises: what others may do stays as it is, but for the mask, which is widened as setfacl does it; a descriptor is what
is changed, never a name.
"""

from __future__ import annotations

import errno
import os
import struct

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"
READ, WRITE, SEARCH = 4, 2, 1
_VERSION = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_OWNER, _USER, _OWNING_GROUP, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_MASKED = (_USER, _OWNING_GROUP, _GROUP)

Entries = dict[tuple[int, int], int]


def grant(descriptor: int, user: int, rights: int, *, is_for_new: bool = False) -> None:
    """Let the user do this, besides what it may already; with `is_for_new` on whatever is made in this folder later.

    Raises OSError: not the owner, read-only, or a file system without access lists (EOPNOTSUPP).
    """
    kind = DEFAULT if is_for_new else ACCESS
    entries = _read(descriptor, kind)
    entries[_USER, user] = entries.get((_USER, user), 0) | rights
    entries[_MASK, _NOBODY] = 0
    for (tag, _), allowed in entries.items():
        if tag in _MASKED:
            entries[_MASK, _NOBODY] |= allowed
    os.setxattr(descriptor, kind, _packed(entries))


def has(descriptor: int, user: int, rights: int, *, is_for_new: bool = False) -> bool:
    """Whether an entry of the list gives the user this much, the mask considered. Raises OSError."""
    entries = _read(descriptor, DEFAULT if is_for_new else ACCESS)
    allowed = entries.get((_USER, user), 0) & entries.get((_MASK, _NOBODY), 7)
    return allowed & rights == rights


def _read(descriptor: int, kind: str) -> Entries:
    try:
        raw = os.getxattr(descriptor, kind)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        mode = os.fstat(descriptor).st_mode
        return {(_OWNER, _NOBODY): mode >> 6 & 7, (_OWNING_GROUP, _NOBODY): mode >> 3 & 7, (_OTHER, _NOBODY): mode & 7}
    return {(tag, who): allowed for tag, allowed, who in _ENTRY.iter_unpack(raw[_VERSION.size :])}


def _packed(entries: Entries) -> bytes:
    """In the order that the kernel insists on: by kind, then by number."""
    listed = (_ENTRY.pack(tag, allowed, who) for (tag, who), allowed in sorted(entries.items()))
    return _VERSION.pack(2) + b"".join(listed)
