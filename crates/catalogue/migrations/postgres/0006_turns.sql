-- Tenants take turns: the oldest live job of each is found without reading those of the others. The state is in it so that
-- live jobs are counted without reading their rows.

CREATE INDEX jobs_by_turn ON jobs (tenant, create_time, id, state) WHERE state IN ('queued', 'running');
