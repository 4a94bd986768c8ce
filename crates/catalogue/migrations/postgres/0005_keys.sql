-- Keys that end by themselves, and keys of client certificates: their digest is that of the certificate.

ALTER TABLE access_keys ADD COLUMN expire_time BIGINT;
ALTER TABLE access_keys ADD COLUMN proof TEXT NOT NULL DEFAULT 'secret'; -- or 'certificate'

CREATE INDEX access_keys_by_creation ON access_keys (create_time, id);
