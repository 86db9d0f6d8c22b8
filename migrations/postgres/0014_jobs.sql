-- Imports in progress, and the processes that run them: see docs/adr/0019.

CREATE TABLE glimpse_jobs (
    id VARCHAR(36) NOT NULL,
    kind VARCHAR(32) NOT NULL,
    image_id VARCHAR(36) NOT NULL,
    project_id VARCHAR(255),
    process_id VARCHAR(36) NOT NULL,
    claim VARCHAR(36) NOT NULL,
    input TEXT NOT NULL,
    step INTEGER NOT NULL,
    done BIGINT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    PRIMARY KEY (id)
);
