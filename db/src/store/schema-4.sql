-- Version 4. Plans that turned out to be wrong are taken out of the file by whoever opens it for writing.

-- How many entries of the table of withdrawals (db/src/withdrawal.rs) this file has been through.
CREATE TABLE withdrawals (
    applied INTEGER NOT NULL
) STRICT;
INSERT INTO withdrawals VALUES (0);
