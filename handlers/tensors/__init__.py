"""The handler for plain tensors, and the forms of its requests and replies."""
