"""The frontend's other scripts: its metrics collector, and the maker of environments."""
