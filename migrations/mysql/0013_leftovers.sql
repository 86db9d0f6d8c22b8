-- Data that failed uploads may have left in a store that could not be reached: see docs/adr/0007.

CREATE TABLE IF NOT EXISTS glimpse_leftovers (
    upload_id VARCHAR(36) NOT NULL,
    image_id VARCHAR(36) NOT NULL,
    process_id VARCHAR(36) NOT NULL,
    store VARCHAR(255) NOT NULL,
    PRIMARY KEY (upload_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
