"""Strict stand-ins of the APIs on loopback, for tests, training and the demo; never part of a production run.

Promises: stricter than the real thing wherever a client could be sloppy; every fault is scripted and repeatable; what
was stored is kept on disk with its hash, for comparison, and never partly. Start here: `server.Sandbox`.
"""

from relayd.sandbox.faults import FaultError
from relayd.sandbox.server import Sandbox
from relayd.sandbox.settings import Settings
from relayd.sandbox.shelf import StoredObject, read_objects

__all__ = ["FaultError", "Sandbox", "Settings", "StoredObject", "read_objects"]
