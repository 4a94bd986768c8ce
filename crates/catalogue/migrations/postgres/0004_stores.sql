-- Copies of images in several stores, records that an upload fills, uploads in parts, quotas, and what the views of other
-- systems say of an image.

-- Where the bytes of an image are. A blob may be named by several images of one tenant.
CREATE TABLE image_replicas (
    image       TEXT COLLATE "C" NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    store       TEXT COLLATE "C" NOT NULL,
    blob        TEXT COLLATE "C" NOT NULL,
    state       TEXT COLLATE "C" NOT NULL, -- arriving, ready, trashed, damaged
    metadata    TEXT COLLATE "C",            -- JSON: what a view says of this copy
    create_time BIGINT NOT NULL,
    update_time BIGINT NOT NULL,
    verify_time BIGINT,          -- when all bytes last had their digest, after they came
    PRIMARY KEY (image, store)
);

INSERT INTO image_replicas (image, store, blob, state, create_time, update_time)
SELECT id, store, blob, 'ready', create_time, create_time FROM images;

CREATE INDEX replicas_by_blob ON image_replicas (store, blob);
CREATE INDEX replicas_by_store ON image_replicas (store, image);
CREATE INDEX replicas_to_verify ON image_replicas (store, (COALESCE(verify_time, create_time)), blob)
    WHERE state = 'ready';

DROP INDEX images_by_blob;
ALTER TABLE images DROP COLUMN store;
ALTER TABLE images DROP COLUMN blob;

ALTER TABLE images ADD COLUMN sha512           TEXT COLLATE "C";
ALTER TABLE images ADD COLUMN crc32            BIGINT;
ALTER TABLE images ADD COLUMN hidden           BIGINT NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN visibility       TEXT COLLATE "C" NOT NULL DEFAULT 'shared'; -- private, shared, community, public
ALTER TABLE images ADD COLUMN disk_format      TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN container_format TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN min_disk_gib     BIGINT NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN min_ram_mib      BIGINT NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN media_type       TEXT COLLATE "C";
ALTER TABLE images ADD COLUMN platform         TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN architecture     TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN guest_os_type    TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN system           BIGINT NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN virtio           BIGINT;
ALTER TABLE images ADD COLUMN origin_url       TEXT COLLATE "C" NOT NULL DEFAULT '';
-- A companion is the same disk in another form. It stands in no list and goes with the image that it belongs to.
ALTER TABLE images ADD COLUMN companion_of     TEXT COLLATE "C";
ALTER TABLE images ADD COLUMN companion_kind   TEXT COLLATE "C";   -- slim, conversion
ALTER TABLE images ADD COLUMN companion_key    TEXT COLLATE "C";
ALTER TABLE images ADD COLUMN use_time         BIGINT; -- last use of a conversion
ALTER TABLE images ADD COLUMN quarantine       TEXT COLLATE "C";   -- JSON: why
ALTER TABLE images ADD COLUMN check_job        TEXT COLLATE "C";   -- the newest one; what follows is of the newest that ended
ALTER TABLE images ADD COLUMN check_result     TEXT COLLATE "C";   -- JSON
ALTER TABLE images ADD COLUMN check_failure    TEXT COLLATE "C";   -- JSON
ALTER TABLE images ADD COLUMN check_time       BIGINT;
ALTER TABLE images ADD COLUMN slim_job         TEXT COLLATE "C";   -- the newest one
ALTER TABLE images ADD COLUMN slim_image       TEXT COLLATE "C";   -- the companion
ALTER TABLE images ADD COLUMN slim_failure     TEXT COLLATE "C";   -- JSON
ALTER TABLE images ADD COLUMN slim_time        BIGINT;
ALTER TABLE images ADD COLUMN upload           TEXT COLLATE "C";   -- the one that fills the record
ALTER TABLE images ADD COLUMN charged_bytes    BIGINT NOT NULL DEFAULT 0; -- what its tenant's usage counts for it

UPDATE images SET charged_bytes = size_bytes;

-- Lists pass over companions without reading their rows.
DROP INDEX images_by_creation;
DROP INDEX images_by_label;
DROP INDEX images_by_size;
CREATE INDEX images_by_creation ON images (tenant, create_time, id, state) WHERE companion_of IS NULL;
CREATE INDEX images_by_label ON images (tenant, label, id, state) WHERE companion_of IS NULL;
CREATE INDEX images_by_size ON images (tenant, size_bytes, id, state) WHERE companion_of IS NULL;
CREATE INDEX images_by_content ON images (tenant, sha256, size_bytes);
CREATE INDEX companions_by_image ON images (companion_of) WHERE companion_of IS NOT NULL;
CREATE INDEX companions_by_creation ON images (tenant, companion_kind, create_time, id) WHERE companion_of IS NOT NULL;
CREATE UNIQUE INDEX companions_by_key ON images (tenant, companion_key) WHERE companion_key IS NOT NULL;
CREATE INDEX conversions_by_use ON images ((COALESCE(use_time, create_time)), id, size_bytes)
    WHERE companion_kind = 'conversion';

-- Tenants that an image is shared with.
CREATE TABLE image_members (
    image       TEXT COLLATE "C" NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    tenant      TEXT COLLATE "C" NOT NULL,
    state       TEXT COLLATE "C" NOT NULL, -- pending, accepted, rejected
    create_time BIGINT NOT NULL,
    update_time BIGINT NOT NULL,
    PRIMARY KEY (image, tenant)
);

CREATE INDEX members_by_tenant ON image_members (tenant, state, image);

-- Where tags are things of their own they have an id and an age.
ALTER TABLE image_texts ADD COLUMN id          TEXT COLLATE "C";
ALTER TABLE image_texts ADD COLUMN create_time BIGINT;
CREATE UNIQUE INDEX texts_by_id ON image_texts (id) WHERE id IS NOT NULL;

-- One row: what stores know the catalogue by that they belong to.
CREATE TABLE catalogue_identity (
    id TEXT NOT NULL PRIMARY KEY
);

CREATE TABLE stores (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name        TEXT COLLATE "C" NOT NULL UNIQUE,
    kind        TEXT COLLATE "C" NOT NULL, -- JSON, without secrets
    description TEXT COLLATE "C" NOT NULL,
    weight      BIGINT NOT NULL,
    limit_bytes BIGINT,
    state       TEXT COLLATE "C" NOT NULL, -- enabled, disabled, draining
    revision    BIGINT NOT NULL,
    create_time BIGINT NOT NULL,
    update_time BIGINT NOT NULL
);

-- Bytes whose last row went. They are removed, then forgotten; no row may ever name them again.
CREATE TABLE doomed_blobs (
    store     TEXT COLLATE "C" NOT NULL,
    blob      TEXT COLLATE "C" NOT NULL,
    doom_time BIGINT NOT NULL,
    PRIMARY KEY (store, blob)
);

CREATE INDEX doomed_by_time ON doomed_blobs (store, doom_time, blob);

ALTER TABLE uploads ADD COLUMN store           TEXT COLLATE "C";   -- where the bytes go
ALTER TABLE uploads ADD COLUMN session         TEXT COLLATE "C";   -- of a part: what it is a part of; else what it composes
ALTER TABLE uploads ADD COLUMN part            BIGINT; -- number of a part
ALTER TABLE uploads ADD COLUMN record          TEXT COLLATE "C";   -- the image record that it fills
ALTER TABLE uploads ADD COLUMN archive         TEXT COLLATE "C";   -- zip
ALTER TABLE uploads ADD COLUMN wishes          TEXT COLLATE "C" NOT NULL DEFAULT '{}'; -- JSON
ALTER TABLE uploads ADD COLUMN reserved_bytes  BIGINT NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN reserved_images BIGINT NOT NULL DEFAULT 0;

UPDATE uploads SET reserved_bytes = COALESCE(size_bytes, 0), reserved_images = 1 WHERE state = 'open';

CREATE UNIQUE INDEX parts_by_number ON uploads (tenant, session, part) WHERE state = 'stored';
CREATE INDEX uploads_by_session ON uploads (tenant, session, state) WHERE session IS NOT NULL;
CREATE INDEX uploads_by_store ON uploads (store) WHERE state IN ('open', 'stored');
DROP INDEX uploads_to_forget;
CREATE INDEX uploads_to_forget ON uploads (update_time) WHERE state IN ('committed', 'aborted', 'failed');

-- What parts belong to.
CREATE TABLE upload_sessions (
    tenant      TEXT COLLATE "C" NOT NULL,
    session     TEXT COLLATE "C" NOT NULL,
    composing   TEXT COLLATE "C", -- the open upload that joins the parts
    create_time BIGINT NOT NULL,
    update_time BIGINT NOT NULL,
    expire_time BIGINT NOT NULL,
    PRIMARY KEY (tenant, session)
);

CREATE INDEX sessions_to_expire ON upload_sessions (expire_time) WHERE composing IS NULL;

ALTER TABLE jobs ADD COLUMN coalesce_key    TEXT COLLATE "C"; -- while one lives, another with the same key is the same
ALTER TABLE jobs ADD COLUMN alias           TEXT COLLATE "C"; -- a client's own id of it
ALTER TABLE jobs ADD COLUMN image           TEXT COLLATE "C"; -- the image that it reads
ALTER TABLE jobs ADD COLUMN reserved_bytes  BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN reserved_images BIGINT NOT NULL DEFAULT 0;

UPDATE jobs SET image = (
    SELECT images.id FROM images
    WHERE images.tenant = jobs.tenant AND jobs.spec LIKE '%"source":{"image":"' || images.id || '"}%'
) WHERE state IN ('queued', 'running');

CREATE UNIQUE INDEX jobs_to_coalesce ON jobs (tenant, coalesce_key)
    WHERE coalesce_key IS NOT NULL AND state IN ('queued', 'running');
CREATE UNIQUE INDEX jobs_by_alias ON jobs (tenant, alias) WHERE alias IS NOT NULL;
CREATE INDEX jobs_by_image ON jobs (tenant, image, create_time, id) WHERE image IS NOT NULL;

-- What a tenant may have; the tenant without a name stands for all that have no row. NULL: no limit.
CREATE TABLE quotas (
    tenant     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    images_max BIGINT,
    bytes_max  BIGINT
);

-- What a tenant has, and what is promised to its uploads and jobs: always the sums over the rows.
CREATE TABLE usage (
    tenant          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    images          BIGINT NOT NULL,
    bytes           BIGINT NOT NULL,
    reserved_images BIGINT NOT NULL,
    reserved_bytes  BIGINT NOT NULL
);

INSERT INTO usage (tenant, images, bytes, reserved_images, reserved_bytes)
SELECT tenant, CAST(SUM(images) AS BIGINT), CAST(SUM(bytes) AS BIGINT), CAST(SUM(uploads) AS BIGINT), CAST(SUM(reserved) AS BIGINT)
FROM (
    SELECT tenant, 1 AS images, charged_bytes AS bytes, 0 AS uploads, 0 AS reserved FROM images
    UNION ALL
    SELECT tenant, 0, 0, reserved_images, reserved_bytes FROM uploads
) AS parts
GROUP BY tenant;
