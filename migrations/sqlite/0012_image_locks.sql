-- Galera's alone: see the migration of MySQL. Migrations have the same numbers on every engine.
SELECT 1;
