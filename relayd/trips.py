"""How long it takes there and back, by what the kernel knows of each connection.

Promises: raises nothing for a connection that is closed; remembers a bounded number of ways.
"""

from __future__ import annotations

import socket
import struct

LONGEST_TRIP_SECONDS = 1.0
"""More than by way of a satellite; what takes longer waits in a queue."""
MOST_TRIPS = 64
_MIN_RTT_AT = 148
"""Where struct tcp_info has tcpi_min_rtt, microseconds (Linux 4.6)."""


class Trips:
    """How long it takes there and back while nothing is queued on the way: the quickest ever seen, by way (own address
    and the other one), so that another uplink is another way."""

    def __init__(self) -> None:
        self._quickest: dict[tuple[str, str], float] = {}

    def seconds(self, connection: socket.socket) -> float:
        """By this connection, as the kernel counts it."""
        try:
            way = str(connection.getsockname()[0]), str(connection.getpeername()[0])
            known = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MIN_RTT_AT + 4)
        except (OSError, ValueError):
            return 0.0
        seen = struct.unpack_from("=I", known, _MIN_RTT_AT)[0] / 1e6 if len(known) >= _MIN_RTT_AT + 4 else 0.0
        if way not in self._quickest and len(self._quickest) >= MOST_TRIPS:
            self._quickest.clear()
        self._quickest[way] = min(seen, self._quickest.get(way, seen))
        return min(self._quickest[way], LONGEST_TRIP_SECONDS)
