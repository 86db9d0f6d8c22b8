-- no-transaction
CREATE INDEX CONCURRENTLY glimpse_images_owned ON images (owner, visibility, deleted, os_hidden, created_at, id);
