"""The names in an archive, its manifest, and the record of its build."""
