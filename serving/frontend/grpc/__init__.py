"""TorchServe's gRPC APIs over the engine; nothing of it is imported where gRPC is off, or grpcio is not installed."""
