"""How a stand-in says which requests are its own: operation, method and path.

Promises: a path is matched whole, as it came over the wire (percent-encoded).
"""

from __future__ import annotations

import re

Route = tuple[str, str, re.Pattern[str]]
"""(operation, method, pattern of the whole path)."""


def route(operation: str, method: str, prefix: str, path: str) -> Route:
    """`path` is a pattern; `prefix` is taken as it is."""
    return operation, method, re.compile(re.escape(prefix) + path)
