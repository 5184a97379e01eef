"""I/O: landing, Delta tables, keys, audit, access. Plain Python; nothing here knows of Dagster."""
