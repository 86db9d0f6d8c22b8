CREATE INDEX glimpse_images_listed ON images (visibility, deleted, os_hidden, created_at, id);
