-- What is cut off for good is taken as it is, and marked.

ALTER TABLE items ADD COLUMN damage TEXT NOT NULL DEFAULT ''; -- what is missing of it, or that it is not what its name says, in words; '' if it is whole
