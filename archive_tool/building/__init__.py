"""From a user's files to a checked plan, and to its archive."""
