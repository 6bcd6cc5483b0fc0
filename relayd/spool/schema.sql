-- The disk queue. Times are Unix seconds UTC; sizes are bytes; JSON is text. Every column says what it is for.
-- This file is the newest shape; an older spool gets there by the numbered files in migrations/.
-- Columns are a wire format: add, do not reuse. user_version is the number of the last migration.

CREATE TABLE items (
    seq          INTEGER PRIMARY KEY, -- order of acceptance; lists go by it, since the clock may jump
    id           TEXT NOT NULL UNIQUE, -- what people and files are called by: time and chance in Crockford base32
    source       TEXT NOT NULL, -- name of the source it came from
    name         TEXT NOT NULL, -- what the outside called it: hostile text
    kind         TEXT NOT NULL CHECK (kind IN ('media', 'message')), -- media: a file in media/; message: the payload column
    content_type TEXT NOT NULL, -- MIME type, by content where that is possible
    size_bytes   INTEGER NOT NULL CHECK (size_bytes >= 0), -- of the content as accepted
    sha256       TEXT NOT NULL, -- of the content, lower-case hex
    md5          TEXT NOT NULL, -- of the content, lower-case hex: what storage servers answer with
    captured_at  REAL NOT NULL, -- when the camera or sensor made it, as far as known
    accepted_at  REAL NOT NULL, -- when it became ours, by the wall clock of that moment: for people; ages go by taken_steady
    payload      BLOB, -- content of a message; NULL for media, and once it was let go
    topic        TEXT, -- MQTT topic it came on, if any
    attributes   TEXT NOT NULL DEFAULT '{}', -- JSON object of strings from a path template
    location     TEXT, -- JSON object of the position at capture, if known
    origin_path  BLOB, -- path below its source's folder, as raw bytes, if it was a file
    state        TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dead', 'evicted', 'expired', 'unclaimed', 'dropped')), -- follows from its deliveries; unclaimed: it has none
    priority     INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 4), -- most urgent of its deliveries; 4: no rule wanted it
    has_content  INTEGER NOT NULL CHECK (has_content IN (0, 1)), -- whether the media file or the payload is still kept
    ended_at     REAL, -- when it stopped being pending, or unclaimed; NULL while it is
    reason       TEXT NOT NULL DEFAULT '', -- why it ended, where no delivery can tell
    trouble      TEXT NOT NULL DEFAULT '[]', -- JSON list of sentences: what of the rules could not be answered when it came
    held         INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)), -- 1: its source has not let the original go yet, so only what is urgent may begin
    damage       TEXT NOT NULL DEFAULT '', -- what is missing of it, or that it is not what its name says, in words; '' if it is whole
    taken_steady REAL NOT NULL DEFAULT 0, -- when it became ours, in steady time: it stands still while the machine is off, and no clock that is set moves it
    ended_steady REAL -- when it stopped being pending, or unclaimed, in steady time; NULL while it is
) STRICT;

-- Room is made, and the oldest is found, class by class.
CREATE INDEX items_kept ON items (priority, state, seq) WHERE has_content = 1;
-- After each start all media is looked for, however many messages wait.
CREATE INDEX items_media ON items (seq) WHERE kind = 'media' AND has_content = 1;
-- What may be forgotten.
CREATE INDEX items_ended ON items (state, ended_steady) WHERE ended_steady IS NOT NULL;
-- Media that is kept although it was delivered, so that it can be sent again.
CREATE INDEX items_delivered ON items (ended_steady) WHERE state = 'delivered' AND kind = 'media' AND has_content = 1;
-- From a file in a drop folder to its item.
CREATE INDEX items_origin ON items (source, origin_path) WHERE origin_path IS NOT NULL;
-- What sources have not let go of yet.
CREATE INDEX items_held ON items (source, id) WHERE held = 1;
-- What an incident may claim, newest first.
CREATE INDEX items_source ON items (source, seq) WHERE has_content = 1;

CREATE TABLE deliveries (
    id             INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused: idempotency keys are made from it
    item           INTEGER NOT NULL REFERENCES items (seq) ON DELETE CASCADE, -- what is owed
    destination    TEXT NOT NULL, -- to whom, by name in the configuration
    action         TEXT NOT NULL, -- which of the destination's actions
    rule           TEXT NOT NULL, -- name of the rule that asked for it
    priority       INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 3), -- 0 emergency, 1 high, 2 normal, 3 bulk
    state          TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dead', 'evicted', 'expired', 'dropped')), -- there is no "running"; dropped: a person gave it up
    attempts       INTEGER NOT NULL DEFAULT 0, -- tries begun: charged before each of them
    created_at     REAL NOT NULL, -- when it was ordered
    owed_since     REAL NOT NULL, -- in steady time: giving up as too old counts from here, when it was ordered, or the last retry by hand
    due_at         REAL NOT NULL, -- not before this, in steady time lifted at each restart of the machine; also the order inside a lane
    arguments      TEXT NOT NULL DEFAULT '{}', -- JSON object, templates as written in the rule
    follow_ups     TEXT NOT NULL DEFAULT '[]', -- JSON list of orders (`then`), created when this one is delivered
    parent_receipt TEXT NOT NULL DEFAULT '{}', -- JSON object: receipt of the delivery that this one follows up
    reason         TEXT NOT NULL DEFAULT '', -- last answer in words
    receipt        TEXT, -- JSON object: what the destination gave back
    proof          TEXT, -- what proves the delivery, in words
    ended_at       REAL, -- when it stopped being pending; NULL while it is
    dropped        INTEGER NOT NULL DEFAULT 0 CHECK (dropped IN (0, 1)), -- of shapes before 8, where it stood for a state of its own; 0 since then
    incident       TEXT NOT NULL DEFAULT '', -- id of the incident it was ordered in; '' if none
    waits_for      TEXT NOT NULL DEFAULT '', -- JSON list of remote ids of the incident that are not known yet; '' if none
    opens          TEXT NOT NULL DEFAULT '', -- JSON list of receipt fields that become remote ids of the incident; '' if none
    lane           INTEGER NOT NULL DEFAULT 2 CHECK (lane IN (0, 1, 2)), -- order inside a priority: 0 messages of incidents, 1 their media, newest first, 2 the rest
    brings         TEXT NOT NULL DEFAULT '', -- JSON list of the needs that it, or what follows it, may meet in its incident; '' if none
    held           INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)) -- 1: not before the source of its item has let the original go
) STRICT;

-- The next one: a seek, whatever the backlog.
CREATE INDEX deliveries_due ON deliveries (destination, priority, lane, due_at) WHERE state = 'pending' AND waits_for = '' AND held = 0;
-- The same for media of incidents, whose newest goes first; those that back off are passed over without a look at their rows.
CREATE INDEX deliveries_newest ON deliveries (destination, priority, item, due_at) WHERE state = 'pending' AND waits_for = '' AND held = 0 AND lane = 1;
-- Emergencies that were never tried: they do not sit out a pause of their destination.
CREATE INDEX deliveries_untried ON deliveries (destination, id) WHERE state = 'pending' AND waits_for = '' AND held = 0 AND priority = 0 AND attempts = 0;
-- What was ordered in an incident.
CREATE INDEX deliveries_incident ON deliveries (incident) WHERE incident <> '';
-- What brings a remote id to an incident, by what it brings.
CREATE INDEX deliveries_bringing ON deliveries (incident, brings, state, waits_for) WHERE brings <> '';
-- What waits for one, or has ended because none came, by what it waits for.
CREATE INDEX deliveries_waiting ON deliveries (incident, state, waits_for) WHERE waits_for <> '';
-- The deliveries of one item.
CREATE INDEX deliveries_item ON deliveries (item);
-- Only what was really tried may be given up as too old.
CREATE INDEX deliveries_old ON deliveries (owed_since) WHERE state = 'pending' AND attempts >= 3;
-- The worst of what is dead: the most urgent, the newest first.
CREATE INDEX deliveries_dead ON deliveries (priority, id DESC) WHERE state = 'dead';
-- What `retry` may wake.
CREATE INDEX deliveries_failed ON deliveries (destination, id) WHERE state IN ('dead', 'expired', 'evicted');

CREATE TABLE attempts (
    delivery   INTEGER NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE, -- which delivery was tried
    number     INTEGER NOT NULL, -- 1 for the first try; the first 5 and the last 50 are kept
    started_at REAL NOT NULL, -- charged at this moment
    ended_at   REAL, -- NULL: under way, or cut by a crash
    outcome    TEXT NOT NULL, -- `started`, or how it ended
    reason     TEXT NOT NULL DEFAULT '', -- the answer in words
    PRIMARY KEY (delivery, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE steps (
    delivery INTEGER NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE, -- whose step
    name     TEXT NOT NULL, -- as the destination calls it
    position INTEGER NOT NULL, -- order in which steps were begun: a rewind forgets one and all later ones
    result   TEXT, -- JSON object; NULL: the intent is stored, the effect may or may not have happened
    PRIMARY KEY (delivery, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE ledger (
    source     TEXT NOT NULL, -- name of the folder source
    path       BLOB NOT NULL, -- below the source's folder, raw bytes
    device     INTEGER NOT NULL, -- st_dev when seen; may change from boot to boot, so it identifies nothing
    inode      INTEGER NOT NULL, -- st_ino
    size_bytes INTEGER NOT NULL, -- st_size
    mtime_ns   INTEGER NOT NULL, -- st_mtime_ns
    item       TEXT, -- id of the item it became; outlives the item while the file is still in the folder
    reason     TEXT, -- why it is in quarantine
    at         REAL NOT NULL, -- when this was written
    PRIMARY KEY (source, path),
    CHECK ((item IS NULL) <> (reason IS NULL))
) STRICT, WITHOUT ROWID;

-- What waits for a technician.
CREATE INDEX ledger_quarantined ON ledger (source, at) WHERE reason IS NOT NULL;

CREATE TABLE counters (
    subject TEXT NOT NULL, -- '' the spool, 'source:NAME' or 'destination:NAME'
    name    TEXT NOT NULL, -- what is counted; `…_ms` is a moment, in Unix milliseconds
    value   INTEGER NOT NULL, -- changed in the same transaction as what it counts
    PRIMARY KEY (subject, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE notes (
    key   TEXT PRIMARY KEY, -- name of a small fact
    value TEXT NOT NULL -- the fact
) STRICT, WITHOUT ROWID;

-- What the fleet is told: written in the transaction that it tells of, removed once the broker has it.
CREATE TABLE events (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT, -- order in which it happened, published in it; never reused, so a gap tells of a loss
    at       REAL NOT NULL, -- when it happened, by the wall clock of that moment
    type     TEXT NOT NULL, -- what happened: delivered, dead, evicted, fault_raised, …
    document TEXT NOT NULL -- JSON object as published, but for the number; its id stays the same however often it is sent
) STRICT;

-- What the fleet asked: a repeated id is answered again, not run again.
CREATE TABLE commands (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT, -- order of arrival; the oldest are forgotten
    id     TEXT NOT NULL UNIQUE, -- as the sender chose it
    name   TEXT NOT NULL, -- which command
    at     REAL NOT NULL, -- when it began to run
    answer TEXT -- JSON object; NULL: it began, and may or may not have been carried out
) STRICT;

-- What ties the items of one event together.
CREATE TABLE incidents (
    seq          INTEGER PRIMARY KEY, -- order of opening
    id           TEXT NOT NULL UNIQUE, -- what people call it: time and chance in Crockford base32
    key          TEXT NOT NULL, -- what joins items: as the rule's template gave it
    rule         TEXT NOT NULL, -- name of the rule that opened it
    item         TEXT NOT NULL, -- id of the item that opened it
    collect      TEXT NOT NULL, -- JSON list of the sources whose items belong to it
    opened_at    REAL NOT NULL, -- by this relay's clock, set along with it while the incident is open
    starts_at    REAL NOT NULL, -- items captured from here on belong to it
    ends_at      REAL NOT NULL, -- up to here; moves with each further item under the key
    closed_at    REAL, -- NULL while it is open
    close_reason TEXT NOT NULL DEFAULT '', -- why it closed, in words
    remote       TEXT NOT NULL DEFAULT '{}', -- JSON object: destination → what it calls this incident (report_id, …)
    has_claimed  INTEGER NOT NULL DEFAULT 0 CHECK (has_claimed IN (0, 1)), -- whether what came before it opened was looked through
    boot         TEXT NOT NULL DEFAULT '', -- which start of the machine it was opened or last joined in; '' if unknown
    clock_offset REAL NOT NULL DEFAULT 0, -- wall clock minus seconds since that start, as its times were read
    closed_steady REAL -- when it closed, in steady time; NULL while it is open
) STRICT;

-- One open incident under a key.
CREATE UNIQUE INDEX incidents_open ON incidents (key) WHERE closed_at IS NULL;
-- Which ones still have to look through what came before.
CREATE INDEX incidents_claiming ON incidents (seq) WHERE has_claimed = 0;
-- Which ones an item may belong to, and which are due to close.
CREATE INDEX incidents_span ON incidents (ends_at);

CREATE TABLE incident_items (
    incident TEXT NOT NULL REFERENCES incidents (id) ON DELETE CASCADE, -- which incident
    item     INTEGER NOT NULL REFERENCES items (seq) ON DELETE CASCADE, -- what belongs to it: rules have decided on it there
    PRIMARY KEY (incident, item)
) STRICT, WITHOUT ROWID;

-- The incidents of an item.
CREATE INDEX incident_items_item ON incident_items (item);
