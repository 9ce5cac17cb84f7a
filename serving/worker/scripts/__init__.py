"""What else the frontend runs: its metrics collector, and the maker of environments."""
