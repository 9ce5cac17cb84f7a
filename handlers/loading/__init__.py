"""From an archive's files to a live model."""
