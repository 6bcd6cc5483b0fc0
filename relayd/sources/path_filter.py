"""Which files of a drop folder a source wants: include and exclude globs, and names that writers use meanwhile.

Promises: works on raw bytes of any kind, takes time linear in the length of a name, and ignores the case of letters,
since cameras write `IMG_0001.JPG` where people write `*.jpg`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# What FTP servers, browsers, copy programs and editors call a file that is not finished.
_UNFINISHED = (
    b"~",
    b".part",
    b".partial",
    b".tmp",
    b".temp",
    b".crdownload",
    b".download",
    b".filepart",
    b".upload",
    b".uploading",
    b".swp",
    b".lock",
    b".inprogress",
    b".incomplete",
    b".aria2",
)
# What cameras write; and what is a file of its own beside such a one (`clip.mp4.json`).
_MEDIA = (
    rb"jpe?g|jpe|png|gif|bmp|tiff?|webp|hei[cf]|avif|mp4|m4[av]|mov|avi|mkv|webm|ts|m2ts|mts|mpe?g|flv|3g[p2]|asf|wmv|dav"
    rb"|h26[45]|mjpe?g|wav|mp3|aac|ogg|flac"
)
_BESIDE = (
    rb"pdf|csv|json|xml|txt|log|idx|srt|vtt|zip|gz|bz2|xz|zst|7z|tar|md5|sha1|sha256|sha512|sig|asc|p7[sm]|gpg|enc|crc|thm"
    rb"|lrv|meta|html?"
)
_TEMPORARY = re.compile(rb".*\.(?:" + _MEDIA + rb")(?![a-z0-9]).+", re.DOTALL)
_WHOLE = re.compile(rb".*\.(?:" + _MEDIA + rb"|" + _BESIDE + rb")", re.DOTALL)
_FOREIGN_FOLDERS = {b"lost+found", b"system volume information", b"$recycle.bin"}
# What NAS, Windows and recorders leave beside the files that people want.
_LITTER_FOLDERS = {b"@eadir", b"#recycle", b"@recycle", b"lost.dir"}
_LITTER_FILES = {b"desktop.ini", b"thumbs.db"}
_LITTER_SUFFIXES = (b".idx",)


class PathFilter:
    """`wants(path)` for files, `enters(name)` for sub-folders.

    A glob with a `/` is matched with the whole path below the folder, any other with the last component; `*` and `?`
    stay within a component, `**` does not.
    """

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._include = _Globs(include)
        self._named = _Globs([glob for glob in include if glob.strip("*?./")])
        self._named_literally = b"\n".join(glob.lower().encode("utf-8", "surrogateescape") for glob in include)
        self._exclude = _Globs(exclude)

    def wants(self, path: bytes) -> bool:
        """Whether a file with this path (relative to the folder) is to be taken at all."""
        lower = path.lower()
        name = lower.rpartition(b"/")[2]
        if is_unfinished(name) or (_is_litter(name) and not self._named.match(lower, name)):
            return False
        if self._include.any and not self._include.match(lower, name):
            return False
        return not (self._exclude.any and self._exclude.match(lower, name))

    def enters(self, name: bytes) -> bool:
        """Whether files are looked for in a sub-folder of this name."""
        lower = name.lower()
        if name.startswith(b".") or lower in _FOREIGN_FOLDERS:
            return False
        return lower not in _LITTER_FOLDERS or lower in self._named_literally

    def leaves_out(self, path: bytes) -> bool:
        """Whether it is litter, or lies in it, and `include` does not name it."""
        *folders, name = path.lower().split(b"/")
        is_named = self._named.match(path.lower(), name)
        return (_is_litter(name) and not is_named) or any(
            folder in _LITTER_FOLDERS and not self.enters(folder) for folder in folders
        )


def is_unfinished(name: bytes) -> bool:
    """A temporary name: never taken, whatever `include` says."""
    return name.startswith(b".") or name.lower().endswith(_UNFINISHED)


def _is_litter(name: bytes) -> bool:
    return name in _LITTER_FILES or name.endswith(_LITTER_SUFFIXES)


def looks_temporary(name: bytes) -> bool:
    """A known extension followed by anything (`snap.jpg_`, `q001.jpg.J7AIZ3`): nearly every program renames such a file
    when it is done."""
    lower = name.lower()
    return _TEMPORARY.fullmatch(lower) is not None and _WHOLE.fullmatch(lower) is None


class _Globs:
    """Plain `*.ext` globs, nearly all there are, cost one `endswith`; the others one regular expression each."""

    def __init__(self, globs: Sequence[str]) -> None:
        raw = [glob.lower().encode("utf-8", "surrogateescape") for glob in globs]
        plain = re.compile(rb"\*[^*?\[/]+")
        self.any = bool(raw)
        self._suffixes = tuple(glob[1:] for glob in raw if plain.fullmatch(glob))
        others = [glob for glob in raw if not plain.fullmatch(glob)]
        self._names = [_compile(glob) for glob in others if b"/" not in glob]
        self._paths = [_compile(glob.removeprefix(b"/")) for glob in others if b"/" in glob]

    def match(self, path: bytes, name: bytes) -> bool:
        return (
            name.endswith(self._suffixes)
            or any(pattern.fullmatch(name) for pattern in self._names)
            or any(pattern.fullmatch(path) for pattern in self._paths)
        )


_TOKEN = re.compile(rb"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|[^*?\[]+|\[", re.DOTALL)


def _compile(glob: bytes) -> re.Pattern[bytes]:
    """A glob as a regular expression in which a `*` never tries twice: a hostile name cannot make it slow."""
    tokens = _TOKEN.findall(glob)
    parts: list[bytes] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token != b"*":
            parts.append(_translate(token))
            continue
        run = b""
        while at < len(tokens) and not tokens[at].startswith(b"*"):
            run += _translate(tokens[at])
            at += 1
        parts.append(rb"(?>[^/]*?" + run + rb")" if at < len(tokens) else rb"[^/]*" + run)
    return re.compile(b"".join(parts), re.DOTALL)


def _translate(token: bytes) -> bytes:
    if token == b"**/":
        return rb"(?:.*/)?"
    if token == b"**":
        return rb".*"
    if token == b"?":
        return rb"[^/]"
    if token.startswith(b"[") and len(token) > 2:
        body = token[1:-1].replace(b"\\", rb"\\").replace(b"[", rb"\[")
        return b"[^/" + body[1:].replace(b"]", rb"\]") + b"]" if body[:1] == b"!" else b"[" + body + b"]"
    return re.escape(token)
