"""The disk queue: the only SQL, and the only place that knows the spool folder.

Promises: what it accepted is on the disk and stays until it is delivered, or ended for a reason that can be told.
`disk_queue.Spool` is the way in; the other modules are its parts.
"""

from relayd.spool.disk_queue import Spool
from relayd.spool.limits import SpoolConfig
from relayd.spool.offline import check, export, repair
from relayd.spool.records import (
    AttemptRecord,
    Begun,
    DeliveryDetail,
    DestinationCounters,
    ItemDetail,
    ItemSummary,
    QuarantinedFile,
    Report,
    SourceCounters,
    SpoolCounters,
)

__all__ = [
    "AttemptRecord",
    "Begun",
    "DeliveryDetail",
    "DestinationCounters",
    "ItemDetail",
    "ItemSummary",
    "QuarantinedFile",
    "Report",
    "SourceCounters",
    "Spool",
    "SpoolConfig",
    "SpoolCounters",
    "check",
    "export",
    "repair",
]
