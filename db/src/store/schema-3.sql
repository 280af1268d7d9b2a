-- Version 3. What servers hand out beside the record.

-- minisign's signature over exactly the bytes of `record`, with the key of whoever stored it.
ALTER TABLE builds ADD COLUMN signature TEXT;
-- Grows with every write to a build, so that a server reads only what is new. As times are, it is no
-- content.
ALTER TABLE builds ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;
CREATE INDEX builds_by_changed ON builds (changed, build_id);

-- The annotated listing of a body, for people: compressed JSON.
CREATE TABLE listings (
    input_key BLOB NOT NULL PRIMARY KEY REFERENCES bodies (input_key),
    listing   BLOB NOT NULL,
    analyzer  TEXT NOT NULL
) STRICT;
