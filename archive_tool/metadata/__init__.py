"""The names in an archive, its manifest, and the record of how it was built."""
