-- By which clock the times of an incident were read: they follow when that very clock is set, and no other.

ALTER TABLE incidents ADD COLUMN boot TEXT NOT NULL DEFAULT ''; -- which start of the machine it was opened or last joined in; '' if unknown
ALTER TABLE incidents ADD COLUMN clock_offset REAL NOT NULL DEFAULT 0; -- wall clock minus seconds since that start, as its times were read
