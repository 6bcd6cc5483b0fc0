-- What the fleet is told, and what it asked.

CREATE TABLE events (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT, -- order in which it happened, published in it; never reused, so a gap tells of a loss
    at       REAL NOT NULL, -- when it happened, by the wall clock of that moment
    type     TEXT NOT NULL, -- what happened: delivered, dead, evicted, fault_raised, …
    document TEXT NOT NULL -- JSON object as published, but for the number; its id stays the same however often it is sent
) STRICT;

CREATE TABLE commands (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT, -- order of arrival; the oldest are forgotten
    id     TEXT NOT NULL UNIQUE, -- as the sender chose it
    name   TEXT NOT NULL, -- which command
    at     REAL NOT NULL, -- when it began to run
    answer TEXT -- JSON object; NULL: it began, and may or may not have been carried out
) STRICT;
