"""Whether an archive can be trusted: rules, signatures, and safe extraction."""
