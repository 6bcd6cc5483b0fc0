-- What waits for a remote id is looked after by kinds of needs, however many deliveries wait.

ALTER TABLE deliveries ADD COLUMN brings TEXT NOT NULL DEFAULT ''; -- JSON list of the needs that it, or what follows it, may meet in its incident; '' if none

UPDATE deliveries SET brings = (
    SELECT json_group_array(need) FROM (
        SELECT deliveries.destination || '.' || own.value AS need FROM json_each(nullif(deliveries.opens, '')) AS own
        UNION SELECT own.value FROM json_each(nullif(deliveries.opens, '')) AS own
        UNION SELECT json_extract(follower.value, '$.destination') || '.' || name.value
            FROM json_tree(deliveries.follow_ups) AS follower, json_each(follower.value, '$.opens') AS name
            WHERE follower.type = 'object'
        UNION SELECT name.value
            FROM json_tree(deliveries.follow_ups) AS follower, json_each(follower.value, '$.opens') AS name
            WHERE follower.type = 'object'
    ) WHERE need IS NOT NULL
) WHERE incident <> '' AND (opens <> '' OR follow_ups LIKE '%"opens":["%');
UPDATE deliveries SET brings = '' WHERE brings = '[]';

-- What brings a remote id to an incident, by what it brings.
CREATE INDEX deliveries_bringing ON deliveries (incident, brings, state, waits_for) WHERE brings <> '';
-- What waits for one, or has ended because none came, by what it waits for.
CREATE INDEX deliveries_waiting ON deliveries (incident, state, waits_for) WHERE waits_for <> '';
-- Those that back off are passed over without a look at their rows.
DROP INDEX deliveries_newest;
CREATE INDEX deliveries_newest ON deliveries (destination, priority, item, due_at) WHERE state = 'pending' AND waits_for = '' AND lane = 1;
