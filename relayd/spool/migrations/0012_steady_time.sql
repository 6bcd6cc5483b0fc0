-- Ages and waits in steady time, which no clock that is set moves. What is there already is stamped when the spool is
-- opened: by clocks of which nothing is known, so every age counts from then.

ALTER TABLE items ADD COLUMN taken_steady REAL NOT NULL DEFAULT 0; -- when it became ours, in steady time
ALTER TABLE items ADD COLUMN ended_steady REAL; -- when it stopped being pending, in steady time; NULL while it is
ALTER TABLE incidents ADD COLUMN closed_steady REAL; -- when it closed, in steady time; NULL while it is open
DROP INDEX items_ended;
CREATE INDEX items_ended ON items (state, ended_steady) WHERE ended_steady IS NOT NULL;
