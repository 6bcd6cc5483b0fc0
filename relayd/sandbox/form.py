"""A strict, streaming reader of the multipart form of an S3 POST.

Promises: fields come before `file`, `file` is the last part and there is exactly one; everything before the content
stays within 20 KB; the content is never held in memory; a form without its closing boundary is no form.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from relayd.sandbox.refusal import StorageRefusal

PREAMBLE_LIMIT = 20 * 1024
_DISPOSITION = re.compile(r'form-data; name="(?P<name>[^"]*)"(?:; filename="(?P<filename>(?:[^"\\]|\\.)*)")?')
_BOUNDARY = re.compile(r'multipart/form-data\s*;\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)


def boundary_of(content_type: str) -> bytes:
    """The boundary named by a Content-Type header; raises StorageRefusal."""
    if not content_type.lower().startswith("multipart/form-data"):
        raise StorageRefusal(
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
            Condition="Bucket POST must be of the enclosure-type multipart/form-data",
        )
    match = _BOUNDARY.fullmatch(content_type)
    if match is None:
        raise malformed("the Content-Type has no boundary, or something besides it")
    return (match[1] or match[2]).encode()


def malformed(why: str) -> StorageRefusal:
    """MalformedPOSTRequest, with what is wrong."""
    message = "The body of your POST request is not well-formed multipart/form-data."
    return StorageRefusal("MalformedPOSTRequest", message, Reason=why)


class Form:
    """Read in this order: `fields()`, then `content()` to its end; both once."""

    def __init__(self, chunks: AsyncIterator[bytes], boundary: bytes) -> None:
        self._chunks = chunks
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"  # so that the first boundary looks like the others
        self._read = 0

    async def fields(self) -> list[tuple[str, str]]:
        """Every field before the file, in order; returns when the content of `file` comes next."""
        found: list[tuple[str, str]] = []
        if await self._until(self._delimiter) != b"":
            raise malformed("something stands before the first boundary")
        while True:
            if not await self._another_part():
                raise _number_of_files(0)
            name, filename = await self._headers()
            if name == "file":
                if filename is None:
                    raise malformed("the part `file` has no filename")
                return found
            if filename is not None:
                raise malformed(f"the field {name!r} has a filename")
            if name in dict(found):
                raise StorageRefusal("InvalidArgument", f"the field is given twice: {name}", ArgumentName=name)
            found.append((name, _text(await self._until(self._delimiter))))

    async def content(self) -> AsyncIterator[bytes]:
        """The bytes of the file; ends only after the closing boundary and the end of the body were seen."""
        keep = len(self._delimiter) - 1
        buffer, self._buffer = self._buffer, b""
        while True:
            end = buffer.find(self._delimiter)
            if end >= 0:
                break
            if len(buffer) > keep:
                yield buffer[:-keep]
                buffer = buffer[-keep:]
            chunk = await self._next_chunk()
            if not chunk:
                raise malformed("the body ends without the closing boundary")
            buffer += chunk
        if end:
            yield buffer[:end]
        self._buffer = buffer[end + len(self._delimiter) :]
        await self._finish()

    async def _finish(self) -> None:
        self._read = 0
        if await self._another_part():
            name, _ = await self._headers()
            raise _number_of_files(2) if name == "file" else malformed(f"the field {name!r} comes after `file`")
        while chunk := await self._next_chunk():
            self._buffer += chunk
            self._check_length()
        if self._buffer not in (b"", b"\r\n"):
            raise malformed("something follows the closing boundary")

    async def _another_part(self) -> bool:
        """After a boundary: True if a part follows, False if it was the closing one."""
        while len(self._buffer) < 2:
            await self._fill()
        mark, self._buffer = self._buffer[:2], self._buffer[2:]
        if mark not in (b"\r\n", b"--"):
            raise malformed("a boundary is followed by something else than CRLF")
        return mark == b"\r\n"

    async def _headers(self) -> tuple[str, str | None]:
        lines = _text(await self._until(b"\r\n\r\n")).split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name.lower() in headers:
                raise malformed(f"a part has the header line {line!r}")
            headers[name.lower()] = value.strip()
        match = _DISPOSITION.fullmatch(headers.get("content-disposition", ""))
        if match is None:
            raise malformed(f"Content-Disposition is {headers.get('content-disposition')!r}")
        if "content-transfer-encoding" in headers:
            raise malformed("Content-Transfer-Encoding is not understood")
        return match["name"], match["filename"]

    async def _until(self, mark: bytes) -> bytes:
        while (end := self._buffer.find(mark)) < 0:
            await self._fill()
        found, self._buffer = self._buffer[:end], self._buffer[end + len(mark) :]
        self._read += end + len(mark)
        self._check_length(pending=False)
        return found

    async def _fill(self) -> None:
        chunk = await self._next_chunk()
        if not chunk:
            raise malformed("the body ends in the middle")
        self._check_length()
        self._buffer += chunk

    def _check_length(self, *, pending: bool = True) -> None:
        if self._read + (len(self._buffer) if pending else 0) > PREAMBLE_LIMIT:
            message = "Your POST request fields preceding the upload file were too large."
            raise StorageRefusal("MaxPostPreDataLengthExceededError", message, MaxPostPreDataLengthBytes=PREAMBLE_LIMIT)

    async def _next_chunk(self) -> bytes:
        return await anext(self._chunks, b"")


def _number_of_files(count: int) -> StorageRefusal:
    code = "IncorrectNumberOfFilesInPostRequest" if count else "InvalidArgument"
    message = "POST requires exactly one file upload per request."
    return StorageRefusal(code, message, ArgumentName="file", ArgumentValue=count)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise malformed("a field is not UTF-8") from None
