"""Scripts that measure us beside a peer in the same run."""
