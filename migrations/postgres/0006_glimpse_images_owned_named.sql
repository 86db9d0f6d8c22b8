-- no-transaction
CREATE INDEX CONCURRENTLY glimpse_images_owned_named ON images (owner, name, visibility, deleted, os_hidden, created_at, id);
