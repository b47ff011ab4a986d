-- Inputs share parts: each is told by its first byte among those of all parts, and its length. A part has 4000.
ALTER TABLE jobs RENAME COLUMN payload_first TO payload_at;
ALTER TABLE jobs RENAME COLUMN payload_parts TO payload_bytes;
UPDATE jobs SET payload_at = payload_at * 4000, payload_bytes = payload_bytes * 4000 WHERE payload_at IS NOT NULL;

-- The writer counts, once for all that it commits together.
DROP TRIGGER jobs_counted_in;
DROP TRIGGER jobs_counted_over;
DROP TRIGGER jobs_counted_out;

-- From here on `record` of a change holds only what transitions change; the rest is in the job's.
