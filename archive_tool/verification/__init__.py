"""Whether an archive can be trusted: its rules, signatures, and extraction by them."""
