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

-- What a release is of, as series() and flavour() say it, and its place among all: compared as text it is in
-- the order that people give versions. Made of the release alone; '' where an older version of this
-- program wrote the row, which the next writer fills in.
ALTER TABLE packages ADD COLUMN series TEXT NOT NULL DEFAULT '';
ALTER TABLE packages ADD COLUMN flavour TEXT NOT NULL DEFAULT '';
ALTER TABLE packages ADD COLUMN place TEXT NOT NULL DEFAULT '';
ALTER TABLE failures ADD COLUMN series TEXT NOT NULL DEFAULT '';
ALTER TABLE failures ADD COLUMN flavour TEXT NOT NULL DEFAULT '';
ALTER TABLE failures ADD COLUMN place TEXT NOT NULL DEFAULT '';
-- Lists and tables of kernels are read from these alone.
CREATE INDEX packages_by_group ON packages (distro, series, flavour, place, release, build_id);
CREATE INDEX packages_by_place ON packages (place, release, build_id, distro, series, flavour);
CREATE INDEX packages_by_name ON packages (package, place, release, build_id, distro);
CREATE INDEX builds_by_reason ON builds (reason, build_id) WHERE reason IS NOT NULL;
CREATE INDEX builds_without_plan ON builds (build_id, reason) WHERE reason IS NOT NULL;
CREATE INDEX failures_by_place ON failures (place, release, version, distro, suite);
CREATE INDEX failures_by_release ON failures (release);
