-- The same as for SQLite, where BYTEA is BLOB. Texts are ordered by their bytes, whatever the locale of the database.
-- Ids are lower-case UUIDs with hyphens, times microseconds since 1970, truth values 0 and 1.

CREATE TABLE jobs (
    id                  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant              TEXT COLLATE "C" NOT NULL,
    kind                TEXT COLLATE "C" NOT NULL,
    spec                TEXT COLLATE "C" NOT NULL, -- JSON
    state               TEXT COLLATE "C" NOT NULL,
    progress            TEXT COLLATE "C" NOT NULL, -- JSON
    result              TEXT COLLATE "C",            -- JSON
    failure             TEXT COLLATE "C",            -- JSON
    revision            BIGINT NOT NULL,
    attempt             BIGINT NOT NULL, -- claims so far, and the fencing number
    releases            BIGINT NOT NULL, -- claims that were given back and do not count as crashes
    cancel_requested    BIGINT NOT NULL,
    worker              TEXT COLLATE "C",
    lease_time          BIGINT,          -- running without one: the lease was freed
    create_time         BIGINT NOT NULL,
    start_time          BIGINT,
    update_time         BIGINT NOT NULL,
    end_time            BIGINT,
    request_id          TEXT COLLATE "C",
    request_fingerprint BYTEA
);

CREATE UNIQUE INDEX jobs_by_request ON jobs (tenant, request_id) WHERE request_id IS NOT NULL;
-- State and kind are in it so that a filtered list reads only the rows that it answers.
CREATE INDEX jobs_by_creation ON jobs (tenant, create_time, id, state, kind);
CREATE INDEX jobs_to_claim ON jobs (create_time, id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_by_end ON jobs (end_time) WHERE end_time IS NOT NULL;

CREATE TABLE uploads (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant          TEXT COLLATE "C" NOT NULL,
    state           TEXT COLLATE "C" NOT NULL,
    label           TEXT COLLATE "C" NOT NULL,
    declared_format TEXT COLLATE "C",
    size_bytes      BIGINT,
    expected_md5    TEXT COLLATE "C",
    expected_sha256 TEXT COLLATE "C",
    durable_bytes   BIGINT NOT NULL,
    image           TEXT COLLATE "C",
    failure         TEXT COLLATE "C",            -- JSON
    create_time     BIGINT NOT NULL,
    update_time     BIGINT NOT NULL,
    expire_time     BIGINT NOT NULL
);

CREATE INDEX uploads_by_creation ON uploads (tenant, create_time, id, state);
CREATE INDEX uploads_to_expire ON uploads (expire_time) WHERE state = 'open';
CREATE INDEX uploads_to_forget ON uploads (update_time) WHERE state <> 'open';

CREATE TABLE images (
    id                 TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant             TEXT COLLATE "C" NOT NULL,
    label              TEXT COLLATE "C" NOT NULL,
    state              TEXT COLLATE "C" NOT NULL,
    format             TEXT COLLATE "C" NOT NULL,
    size_bytes         BIGINT NOT NULL,
    virtual_size_bytes BIGINT,
    md5                TEXT COLLATE "C" NOT NULL,
    sha256             TEXT COLLATE "C" NOT NULL,
    store              TEXT COLLATE "C" NOT NULL,
    blob               TEXT COLLATE "C" NOT NULL,
    derived_from       TEXT COLLATE "C",
    create_time        BIGINT NOT NULL,
    update_time        BIGINT NOT NULL
);

CREATE INDEX images_by_blob ON images (store, blob);

CREATE TABLE access_keys (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    secret_sha256 BYTEA  NOT NULL UNIQUE,
    tenant        TEXT COLLATE "C" NOT NULL,
    scopes        TEXT COLLATE "C" NOT NULL, -- names with commas between
    label         TEXT COLLATE "C" NOT NULL,
    create_time   BIGINT NOT NULL,
    revoke_time   BIGINT
);
