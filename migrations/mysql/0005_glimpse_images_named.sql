CREATE INDEX glimpse_images_named ON images (name, visibility, deleted, os_hidden, created_at, id);
