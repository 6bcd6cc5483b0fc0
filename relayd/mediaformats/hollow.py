"""Zeros where content should be: what a power cut, a preallocated file or an upload that was resumed leaves behind.

Promises: at most some dozens of small blocks are read, however long the file; no type is asked for.
"""

from __future__ import annotations

from relayd.files import size_in_words
from relayd.mediaformats.content import HEAD_BYTES, Content

_SAMPLES = 64
_SAMPLE_BYTES = 4096
_LEAST_HOLE_BYTES = 4096
_FEWEST_ZEROS = 64
_LARGE_SHARE = 0.25
_LONGEST_PADDING = 32 * 1024 * 1024
_BLOCK_BYTES = 64 * 1024


def is_hollow(content: Content) -> bool:
    """Whether there is nothing in it but zeros."""
    if content.head.strip(b"\0") or content.tail(_SAMPLE_BYTES).strip(b"\0"):
        return False
    return all(_samples(content, 0, content.size))


def never_written(content: Content, start: int, end: int, share: float = _LARGE_SHARE) -> str | None:
    """How much from `start` to `end`, and where, is one run of zeros; None if that is less than `share` of it."""
    if end - start < _LEAST_HOLE_BYTES:
        return None
    samples = _samples(content, start, end)
    at, length = _longest_run(samples)
    if length < max(2.0, share * len(samples)):
        return None
    where = "at its front" if at == 0 else "at its end" if at + length == len(samples) else "in its middle"
    hole = size_in_words((end - start) * length / len(samples))
    return f"about {hole} {where} were never written: they are zeros"


def zeros_from(content: Content, start: int) -> str | None:
    """That there is nothing but zeros from `start` to the end, in words; None if there is more, or too little."""
    length = content.size - start
    if length < _FEWEST_ZEROS or not all(_samples(content, start, content.size)):
        return None
    return f"its last {size_in_words(length)} were never written: they are zeros"


def zeros_in_front(content: Content, share: float = 0.0) -> str | None:
    """The same for its front: a quarter of a short file; of a long one all that was read of it, and `share` of it."""
    length = len(content.head) - len(content.head.lstrip(b"\0"))
    if length < _FEWEST_ZEROS or length < min(HEAD_BYTES, content.size / 4):
        return None
    if length == HEAD_BYTES:
        length = _first_byte(content)
    if length < share * content.size:
        return None
    return f"its first {size_in_words(length)} were never written: they are zeros"


def _first_byte(content: Content) -> int:
    """Where the first byte that is no zero may be: between two samples it is not looked for."""
    step = max(_BLOCK_BYTES, content.size // _SAMPLES)
    for at in range(0, content.size, step):
        block = content.read(at, min(_BLOCK_BYTES, content.size - at))
        if block.strip(b"\0"):
            return at + len(block) - len(block.lstrip(b"\0"))
    return content.size


def end_of_content(content: Content) -> int:
    """Where the zeros begin that pad it to its end."""
    end, stop = content.size, max(0, content.size - _LONGEST_PADDING)
    while end > stop:
        start = max(stop, end - _BLOCK_BYTES)
        kept = content.read(start, end - start).rstrip(b"\0")
        if kept:
            return start + len(kept)
        end = start
    return end


def _samples(content: Content, start: int, end: int) -> list[bool]:
    """For blocks spread evenly whether they hold nothing but zeros; a short stretch is read whole."""
    step = max(1, (end - start) // _SAMPLES)
    length = min(step, _SAMPLE_BYTES)
    blocks = (content.read(at, min(length, end - at)) for at in range(start, end, step))
    return [not block.strip(b"\0") for block in blocks]


def _longest_run(samples: list[bool]) -> tuple[int, int]:
    """(first, length) of the longest run of zeros."""
    best, since = (0, 0), 0
    for index, is_zero in enumerate([*samples, False]):
        if is_zero:
            continue
        if index - since > best[1]:
            best = (since, index - since)
        since = index + 1
    return best
