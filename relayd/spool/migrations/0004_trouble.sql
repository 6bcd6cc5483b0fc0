-- What of the rules could not be answered stays with the item, so that people see it there.

ALTER TABLE items ADD COLUMN trouble TEXT NOT NULL DEFAULT '[]'; -- JSON list of sentences: what of the rules could not be answered when it came
