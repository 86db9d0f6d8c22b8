CREATE INDEX glimpse_image_tags_tagged ON image_tags (value, deleted, image_id);
