"""Steps from one schema of the database to the next; see ``schema_version``."""
