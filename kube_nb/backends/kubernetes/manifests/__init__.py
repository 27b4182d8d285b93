"""The objects that are made on a cluster: one file per kind, functions from values to plain dicts."""
