-- An item that no rule wanted is unclaimed, and what a person gave up is dropped: states of their own. The tables
-- stay where they are and only their CHECK changes, so this takes no room, however much is stored
-- (https://sqlite.org/lang_altertable.html#making_other_kinds_of_table_schema_changes).

PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, '''expired'')', '''expired'', ''unclaimed'', ''dropped'')') WHERE type = 'table' AND name = 'items';
UPDATE sqlite_schema SET sql = replace(sql, '''expired'')', '''expired'', ''dropped'')') WHERE type = 'table' AND name = 'deliveries';
PRAGMA writable_schema = RESET;

UPDATE items SET state = 'dropped' WHERE state = 'dead' AND reason = 'dropped by hand';
UPDATE items SET state = (
    SELECT CASE
        WHEN max(state = 'dead' AND dropped = 0) THEN 'dead' WHEN max(state = 'evicted') THEN 'evicted'
        WHEN max(state = 'expired') THEN 'expired' ELSE 'dropped'
    END FROM deliveries WHERE item = items.seq
) WHERE state = 'dead' AND seq IN (SELECT item FROM deliveries WHERE dropped = 1);
UPDATE deliveries SET state = 'dropped', dropped = 0 WHERE dropped = 1;
UPDATE items SET state = 'unclaimed'
    WHERE state = 'pending' AND priority = 4 AND NOT EXISTS (SELECT 1 FROM deliveries WHERE item = items.seq);

UPDATE items SET state = 'unclaimed', reason = 'no rule wanted it'
    WHERE state = 'expired' AND has_content = 0 AND NOT EXISTS (SELECT 1 FROM deliveries WHERE item = items.seq);

-- Every counter of states as the rows say it, with what is purged by now.
CREATE TEMP TABLE counted AS
    SELECT '' AS subject, state AS name, count(*) AS value FROM items GROUP BY state
    UNION ALL SELECT 'destination:' || destination, state, count(*) FROM deliveries GROUP BY destination, state
    UNION ALL SELECT subject, substr(name, 8), value FROM counters WHERE substr(name, 1, 7) = 'purged.';
DELETE FROM counters WHERE (subject = '' OR substr(subject, 1, 12) = 'destination:')
    AND name IN ('pending', 'delivered', 'dead', 'evicted', 'expired');
INSERT INTO counters (subject, name, value) SELECT subject, name, sum(value) FROM counted GROUP BY subject, name;
INSERT OR REPLACE INTO counters (subject, name, value) SELECT '', 'stored', count(*) FROM items;
INSERT OR REPLACE INTO counters (subject, name, value)
    SELECT '', 'accepted', coalesce(sum(value), 0) FROM counted WHERE subject = '';
DROP TABLE counted;
