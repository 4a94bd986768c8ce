-- Each lane finds its live jobs without reading those of the others, however many these are. The states
-- stand in another order than in `jobs_by_turn`: its condition must not hold for the statements of the lanes.

CREATE INDEX jobs_to_work ON jobs (tenant, create_time, id)
    WHERE state IN ('running', 'queued') AND kind NOT IN ('import', 'scrub', 'drain');
CREATE INDEX jobs_to_import ON jobs (tenant, create_time, id) WHERE state IN ('running', 'queued') AND kind = 'import';
CREATE INDEX jobs_to_scrub ON jobs (tenant, create_time, id) WHERE state IN ('running', 'queued') AND kind = 'scrub';
CREATE INDEX jobs_to_drain ON jobs (tenant, create_time, id) WHERE state IN ('running', 'queued') AND kind = 'drain';

-- Claims go by turns: nothing asks for the oldest of all.
DROP INDEX jobs_to_claim;

-- Images of one label are found without walking all images, and turned over by age without reading all of that label.
CREATE INDEX images_by_label_and_age ON images (tenant, label, create_time, id, state) WHERE companion_of IS NULL;

-- How many imports of a tenant run.
CREATE INDEX imports_running ON jobs (tenant, lease_time) WHERE state = 'running' AND kind = 'import';
