"""The format of a file of weights, its tensors, and the code that it would run."""
