-- Only what SQLite and PostgreSQL both know: TEXT, BIGINT, BLOB (BYTEA there), partial indexes, row values.
-- Ids are lower-case UUIDs with hyphens, times microseconds since 1970, truth values 0 and 1.

CREATE TABLE jobs (
    id                  TEXT   NOT NULL PRIMARY KEY,
    tenant              TEXT   NOT NULL,
    kind                TEXT   NOT NULL,
    spec                TEXT   NOT NULL, -- JSON
    state               TEXT   NOT NULL,
    progress            TEXT   NOT NULL, -- JSON
    result              TEXT,            -- JSON
    failure             TEXT,            -- JSON
    revision            BIGINT NOT NULL,
    attempt             BIGINT NOT NULL, -- claims so far, and the fencing number
    releases            BIGINT NOT NULL, -- claims that were given back and do not count as crashes
    cancel_requested    BIGINT NOT NULL,
    worker              TEXT,
    lease_time          BIGINT,          -- running without one: the lease was freed
    create_time         BIGINT NOT NULL,
    start_time          BIGINT,
    update_time         BIGINT NOT NULL,
    end_time            BIGINT,
    request_id          TEXT,
    request_fingerprint BLOB
);

CREATE UNIQUE INDEX jobs_by_request ON jobs (tenant, request_id) WHERE request_id IS NOT NULL;
-- State and kind are in it so that a filtered list reads only the rows that it answers.
CREATE INDEX jobs_by_creation ON jobs (tenant, create_time, id, state, kind);
CREATE INDEX jobs_to_claim ON jobs (create_time, id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_by_end ON jobs (end_time) WHERE end_time IS NOT NULL;

CREATE TABLE uploads (
    id              TEXT   NOT NULL PRIMARY KEY,
    tenant          TEXT   NOT NULL,
    state           TEXT   NOT NULL,
    label           TEXT   NOT NULL,
    declared_format TEXT,
    size_bytes      BIGINT,
    expected_md5    TEXT,
    expected_sha256 TEXT,
    durable_bytes   BIGINT NOT NULL,
    image           TEXT,
    failure         TEXT,            -- JSON
    create_time     BIGINT NOT NULL,
    update_time     BIGINT NOT NULL,
    expire_time     BIGINT NOT NULL
);

CREATE INDEX uploads_by_creation ON uploads (tenant, create_time, id, state);
CREATE INDEX uploads_to_expire ON uploads (expire_time) WHERE state = 'open';
CREATE INDEX uploads_to_forget ON uploads (update_time) WHERE state <> 'open';

CREATE TABLE images (
    id                 TEXT   NOT NULL PRIMARY KEY,
    tenant             TEXT   NOT NULL,
    label              TEXT   NOT NULL,
    state              TEXT   NOT NULL,
    format             TEXT   NOT NULL,
    size_bytes         BIGINT NOT NULL,
    virtual_size_bytes BIGINT,
    md5                TEXT   NOT NULL,
    sha256             TEXT   NOT NULL,
    store              TEXT   NOT NULL,
    blob               TEXT   NOT NULL,
    derived_from       TEXT,
    create_time        BIGINT NOT NULL,
    update_time        BIGINT NOT NULL
);

CREATE INDEX images_by_blob ON images (store, blob);

CREATE TABLE access_keys (
    id            TEXT   NOT NULL PRIMARY KEY,
    secret_sha256 BLOB   NOT NULL UNIQUE,
    tenant        TEXT   NOT NULL,
    scopes        TEXT   NOT NULL, -- names with commas between
    label         TEXT   NOT NULL,
    create_time   BIGINT NOT NULL,
    revoke_time   BIGINT
);
