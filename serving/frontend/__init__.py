"""TorchServe's APIs without Java: ASGI applications over an `Engine`, and the engine of one machine."""
