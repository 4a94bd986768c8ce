-- Images are listed, described, deleted and restored.

ALTER TABLE images ADD COLUMN revision    BIGINT NOT NULL DEFAULT 1;
ALTER TABLE images ADD COLUMN description TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN protected   BIGINT NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN enabled     BIGINT NOT NULL DEFAULT 1;
ALTER TABLE images ADD COLUMN trash_time  BIGINT; -- in the trash: since when
ALTER TABLE images ADD COLUMN purge_time  BIGINT; -- in the trash: until when

-- State is in them so that what lies in the trash is passed over without reading its row.
CREATE INDEX images_by_creation ON images (tenant, create_time, id, state);
CREATE INDEX images_by_label ON images (tenant, label, id, state);
CREATE INDEX images_by_size ON images (tenant, size_bytes, id, state);
CREATE INDEX images_to_purge ON images (purge_time) WHERE purge_time IS NOT NULL;

-- Labels and properties by name, and tags, whose value is empty.
CREATE TABLE image_texts (
    image TEXT COLLATE "C" NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    kind  TEXT COLLATE "C" NOT NULL, -- label, property, tag
    name  TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (image, kind, name)
);

-- Ids of images that are gone for good: nothing else may ever have them.
CREATE TABLE retired_images (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant      TEXT COLLATE "C" NOT NULL,
    retire_time BIGINT NOT NULL
);
