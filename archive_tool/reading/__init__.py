"""An archive's bytes as they come: a zip, a tar.gz, or a folder."""
