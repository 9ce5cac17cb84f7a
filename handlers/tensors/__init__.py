"""The handler for plain tensors, and the forms in which they come and go."""
