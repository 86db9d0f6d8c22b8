-- Uploads under way, and the processes that they are in: what a process that was killed has begun is undone by another one.

CREATE TABLE glimpse_processes (
    id VARCHAR(36) NOT NULL,
    beat BIGINT NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE glimpse_uploads (
    image_id VARCHAR(36) NOT NULL,
    upload_id VARCHAR(36) NOT NULL,
    process_id VARCHAR(36) NOT NULL,
    store VARCHAR(255) NOT NULL,
    PRIMARY KEY (image_id)
);
