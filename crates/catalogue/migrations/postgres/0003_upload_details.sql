-- What is said of an image while it is uploaded.

ALTER TABLE uploads ADD COLUMN details TEXT COLLATE "C" NOT NULL DEFAULT '{}'; -- JSON
