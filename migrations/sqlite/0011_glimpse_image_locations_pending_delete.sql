CREATE INDEX glimpse_image_locations_pending_delete ON image_locations (status, deleted) WHERE status = 'pending_delete';
