"""Ray Serve: an application a model version that answers by itself, one that answers all else, and what both know."""
