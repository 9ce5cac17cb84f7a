"""The command line ``torchmar``: one file a command, and the only place that prints."""
