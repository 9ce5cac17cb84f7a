"""The command bench: its options, and what it shows."""
