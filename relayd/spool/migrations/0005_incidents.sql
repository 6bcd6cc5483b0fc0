-- Incidents: what ties the items of one event together.

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
    has_claimed  INTEGER NOT NULL DEFAULT 0 CHECK (has_claimed IN (0, 1)) -- whether what came before it opened was looked through
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

ALTER TABLE deliveries ADD COLUMN incident TEXT NOT NULL DEFAULT ''; -- id of the incident it was ordered in; '' if none
ALTER TABLE deliveries ADD COLUMN waits_for TEXT NOT NULL DEFAULT ''; -- JSON list of remote ids of the incident that are not known yet; '' if none
ALTER TABLE deliveries ADD COLUMN opens TEXT NOT NULL DEFAULT ''; -- JSON list of receipt fields that become remote ids of the incident; '' if none
ALTER TABLE deliveries ADD COLUMN lane INTEGER NOT NULL DEFAULT 2 CHECK (lane IN (0, 1, 2)); -- order inside a priority: 0 messages of incidents, 1 their media, newest first, 2 the rest

-- The next one: a seek, whatever the backlog.
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (destination, priority, lane, due_at) WHERE state = 'pending' AND waits_for = '';
-- The same for media of incidents, whose newest goes first.
CREATE INDEX deliveries_newest ON deliveries (destination, priority, item) WHERE state = 'pending' AND waits_for = '' AND lane = 1;
-- What was ordered in an incident.
CREATE INDEX deliveries_incident ON deliveries (incident) WHERE incident <> '';
-- What an incident may claim, newest first.
CREATE INDEX items_source ON items (source, seq) WHERE has_content = 1;
