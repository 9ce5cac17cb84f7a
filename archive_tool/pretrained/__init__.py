"""Folders that `save_pretrained` writes: what is in one, what is missing, and what its model is for."""
