-- Damaged copies are counted at each sweep, and are few.

CREATE INDEX replicas_damaged ON image_replicas (image) WHERE state = 'damaged';
