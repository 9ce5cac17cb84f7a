"""The bytes of an archive as they are read: a zip, a tar.gz, or a folder."""
