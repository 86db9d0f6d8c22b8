-- In a Galera cluster, whoever takes an image's lock changes its row here: see docs/adr/0002.

CREATE TABLE IF NOT EXISTS glimpse_image_locks (
    image_id VARCHAR(36) NOT NULL,
    taken BIGINT NOT NULL,
    PRIMARY KEY (image_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
