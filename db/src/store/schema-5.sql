-- Version 5. What booting kernels showed, and all packages of a kernel, so that it can be fetched again.

-- Of the record that is in `builds`: where that is replaced by another, its proof goes.
CREATE TABLE proofs (
    build_id    TEXT NOT NULL PRIMARY KEY REFERENCES builds (build_id),
    plan_sha256 BLOB NOT NULL CHECK (length(plan_sha256) = 32),
    result      TEXT NOT NULL,
    proof       BLOB NOT NULL,
    signature   TEXT
) STRICT;
CREATE INDEX proofs_by_result ON proofs (result, build_id);

-- The packages that `set_sha256` of `packages` names, with every place that an index has listed each at.
CREATE TABLE set_packages (
    set_sha256 TEXT NOT NULL,
    package    TEXT NOT NULL,
    url        TEXT NOT NULL,
    sha256     TEXT,
    PRIMARY KEY (set_sha256, package, url)
) STRICT, WITHOUT ROWID;
