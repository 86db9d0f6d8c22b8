CREATE INDEX glimpse_image_members_shared ON image_members (member, deleted, status, image_id);
