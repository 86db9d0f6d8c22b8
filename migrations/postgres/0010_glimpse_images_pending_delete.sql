-- no-transaction
CREATE INDEX CONCURRENTLY glimpse_images_pending_delete ON images (status, deleted) WHERE status = 'pending_delete';
