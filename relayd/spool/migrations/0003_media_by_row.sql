-- After each start all media is looked for: a walk over the media only, however many messages wait.

CREATE INDEX items_media ON items (seq) WHERE kind = 'media' AND has_content = 1;
