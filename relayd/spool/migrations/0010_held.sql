-- A file is taken the moment its writer closes it, and let go of a little later: until then only what is urgent begins.

ALTER TABLE items ADD COLUMN held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)); -- 1: its source has not let the original go yet, so only what is urgent may begin
ALTER TABLE deliveries ADD COLUMN held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)); -- 1: not before the source of its item has let the original go
DROP INDEX deliveries_due;
DROP INDEX deliveries_newest;
DROP INDEX deliveries_untried;
CREATE INDEX deliveries_due ON deliveries (destination, priority, lane, due_at) WHERE state = 'pending' AND waits_for = '' AND held = 0;
CREATE INDEX deliveries_newest ON deliveries (destination, priority, item, due_at) WHERE state = 'pending' AND waits_for = '' AND held = 0 AND lane = 1;
CREATE INDEX deliveries_untried ON deliveries (destination, id) WHERE state = 'pending' AND waits_for = '' AND held = 0 AND priority = 0 AND attempts = 0;
CREATE INDEX items_held ON items (source, id) WHERE held = 1;
