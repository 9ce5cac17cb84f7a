"""Other servers that run the same handler with the same weights: mosec, and FastAPI around the model."""
