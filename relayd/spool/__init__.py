"""The disk queue: the only SQL, and the only place that knows the spool folder.

Promises: what it accepted is on the disk and stays until it is delivered, or ended for a reason that can be told.
`disk_queue.Spool` is the way in; the other modules are its parts.
"""

from relayd.spool.answers import Remembered
from relayd.spool.correspondence import Correspondence
from relayd.spool.disk_queue import Spool
from relayd.spool.incident_file import IncidentFile
from relayd.spool.limits import Room, SpoolConfig
from relayd.spool.moving import move, owed
from relayd.spool.offline import check, export, repair
from relayd.spool.outbox import Event
from relayd.spool.records import (
    AttemptRecord,
    Begun,
    DeadDelivery,
    DeliveryDetail,
    DestinationCounters,
    IncidentSummary,
    ItemDetail,
    ItemSummary,
    MissedIncident,
    QuarantinedFile,
    Report,
    Resent,
    SourceCounters,
    SpoolCounters,
)
from relayd.spool.resending import Terms, Wanted
from relayd.spool.tying import Ties

__all__ = [
    "AttemptRecord",
    "Begun",
    "Correspondence",
    "DeadDelivery",
    "DeliveryDetail",
    "DestinationCounters",
    "Event",
    "IncidentFile",
    "IncidentSummary",
    "ItemDetail",
    "ItemSummary",
    "MissedIncident",
    "QuarantinedFile",
    "Remembered",
    "Report",
    "Resent",
    "Room",
    "SourceCounters",
    "Spool",
    "SpoolConfig",
    "SpoolCounters",
    "Terms",
    "Ties",
    "Wanted",
    "check",
    "export",
    "move",
    "owed",
    "repair",
]
