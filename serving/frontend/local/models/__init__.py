"""What a version of a model is: its archive, what that and its registration say, and what is written down of it."""
