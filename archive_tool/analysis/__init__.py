"""Python files and requirements of a model, read and never run."""
