-- Media stays for a while after it was delivered, so that it can be sent again.

CREATE INDEX items_delivered ON items (ended_steady) WHERE state = 'delivered' AND kind = 'media' AND has_content = 1;
INSERT OR REPLACE INTO counters (subject, name, value)
SELECT '', 'kept_media_bytes', coalesce(sum((size_bytes + 4095) / 4096 * 4096), 0)
FROM items WHERE state = 'delivered' AND kind = 'media' AND has_content = 1;
