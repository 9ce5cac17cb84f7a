"""From the frontend's LOAD to a handler that can be called."""
