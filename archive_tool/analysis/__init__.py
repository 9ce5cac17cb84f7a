"""Python files and requirements of a model, parsed and never run."""
