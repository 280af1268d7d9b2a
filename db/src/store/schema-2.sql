-- Version 2. Whether only parts of the package were fetched, over HTTP by ranges: its hash is the one the
-- index gives, and nobody has compared it.
ALTER TABLE packages ADD COLUMN transport_only INTEGER NOT NULL DEFAULT 0 CHECK (transport_only IN (0, 1));
