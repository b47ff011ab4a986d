-- Jobs that wait for others: how many, and a row for each one waited for.
ALTER TABLE jobs ADD COLUMN blocked INTEGER NOT NULL DEFAULT 0;
CREATE TABLE job_dependencies (parent TEXT NOT NULL, child INTEGER NOT NULL, PRIMARY KEY (parent, child)) WITHOUT ROWID;
CREATE INDEX job_dependencies_of_child ON job_dependencies (child);
DROP INDEX jobs_claim;
CREATE INDEX jobs_claim ON jobs (sort_key, number, run_at) WHERE status = 'queued' AND blocked = 0;

-- Whatever a list is filtered or sorted by is found without looking at the rest of a long history.
CREATE INDEX jobs_group ON jobs (tenant, job_group, number, status, expires_at) WHERE job_group IS NOT NULL;
CREATE INDEX jobs_by_status ON jobs (tenant, status, created_at, number);
CREATE INDEX jobs_by_model ON jobs (tenant, model_id, created_at, number) WHERE model_id IS NOT NULL;
CREATE INDEX jobs_by_completion ON jobs (tenant, completed_at, number);

-- Counts by all that is counted, so that a list's total needs no look at the jobs.
DROP TRIGGER jobs_counted_in;
DROP TRIGGER jobs_counted_over;
DROP TRIGGER jobs_counted_out;
DROP TABLE job_counts;
CREATE TABLE job_counts (
    tenant TEXT NOT NULL,
    status TEXT NOT NULL,
    operation TEXT NOT NULL,
    -- Empty where there is none.
    model_id TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (tenant, status, operation, model_id)
) WITHOUT ROWID;
INSERT INTO job_counts SELECT tenant, status, operation, ifnull(model_id, ''), count(*) FROM jobs GROUP BY 1, 2, 3, 4;
CREATE TRIGGER jobs_counted_in AFTER INSERT ON jobs BEGIN
    INSERT INTO job_counts VALUES (new.tenant, new.status, new.operation, ifnull(new.model_id, ''), 1)
        ON CONFLICT DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER jobs_counted_over AFTER UPDATE OF status ON jobs WHEN new.status <> old.status BEGIN
    UPDATE job_counts SET jobs = jobs - 1
        WHERE (tenant, status, operation, model_id) = (old.tenant, old.status, old.operation, ifnull(old.model_id, ''));
    INSERT INTO job_counts VALUES (new.tenant, new.status, new.operation, ifnull(new.model_id, ''), 1)
        ON CONFLICT DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER jobs_counted_out AFTER DELETE ON jobs BEGIN
    UPDATE job_counts SET jobs = jobs - 1
        WHERE (tenant, status, operation, model_id) = (old.tenant, old.status, old.operation, ifnull(old.model_id, ''));
END;
