"""How a worker's process comes to be: the launcher, the prefork process, the child."""
