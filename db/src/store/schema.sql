-- Version 1. Times (indexed_at, crawled_at, stale_since) are seconds since 1970 and no content:
-- everything else is the same whatever the order or number of the writes that led to it.

-- Marks the file as nfdrop's: "nfdr". In the migration, so that no kill can come in between.
PRAGMA application_id = 0x6e666472;

-- What running one body of nft_do_chain with one layout told. A plan without its build's identity,
-- or a reason.
CREATE TABLE bodies (
    input_key BLOB NOT NULL PRIMARY KEY CHECK (length(input_key) = 32),
    plan      BLOB,
    reason    TEXT,
    detail    TEXT,
    analyzer  TEXT NOT NULL,
    CHECK ((plan IS NULL) = (reason IS NOT NULL))
) STRICT;

-- One ELF object that holds, or should hold, nft_do_chain. `record` is what is served.
CREATE TABLE builds (
    build_id  TEXT NOT NULL PRIMARY KEY,
    object    TEXT NOT NULL,
    arch      TEXT NOT NULL,
    input_key BLOB REFERENCES bodies (input_key),
    status    TEXT NOT NULL,
    reason    TEXT,
    detail    TEXT,
    record    BLOB NOT NULL,
    analyzer  TEXT NOT NULL,
    CHECK ((status = 'resolved') = (reason IS NULL))
) STRICT;
CREATE INDEX builds_by_body ON builds (input_key);

-- The package that holds a build, once per suite that lists it. `set_sha256` names all packages
-- the analysis read: their SHA-256 in ascending order, separated by spaces.
CREATE TABLE packages (
    distro           TEXT NOT NULL,
    suite            TEXT NOT NULL,
    package          TEXT NOT NULL,
    version          TEXT NOT NULL,
    arch             TEXT NOT NULL,
    sha256           TEXT NOT NULL,
    release          TEXT NOT NULL,
    url              TEXT NOT NULL,
    set_sha256       TEXT NOT NULL,
    signed_by        TEXT,
    vmlinux_build_id TEXT,
    build_id         TEXT NOT NULL REFERENCES builds (build_id),
    indexed_at       INTEGER NOT NULL,
    PRIMARY KEY (distro, suite, package, version, arch, sha256)
) STRICT, WITHOUT ROWID;
CREATE INDEX packages_by_build ON packages (build_id);
CREATE INDEX packages_by_release ON packages (release);
CREATE INDEX packages_by_set ON packages (set_sha256);

-- Kernels that never got to a build-id.
CREATE TABLE failures (
    distro     TEXT NOT NULL,
    suite      TEXT NOT NULL,
    release    TEXT NOT NULL,
    version    TEXT NOT NULL,
    arch       TEXT NOT NULL,
    set_sha256 TEXT NOT NULL,
    signed_by  TEXT,
    reason     TEXT NOT NULL,
    detail     TEXT NOT NULL,
    analyzer   TEXT NOT NULL,
    indexed_at INTEGER NOT NULL,
    PRIMARY KEY (distro, suite, release, version, arch)
) STRICT, WITHOUT ROWID;
CREATE INDEX failures_by_set ON failures (set_sha256);

-- What a suite looked like when it was last crawled.
CREATE TABLE sources (
    distro       TEXT NOT NULL,
    suite        TEXT NOT NULL,
    arch         TEXT NOT NULL,
    index_sha256 TEXT,
    kernels      INTEGER NOT NULL,
    signed_by    TEXT,
    reason       TEXT,
    detail       TEXT,
    stale_since  INTEGER,
    crawled_at   INTEGER NOT NULL,
    PRIMARY KEY (distro, suite, arch)
) STRICT, WITHOUT ROWID;
