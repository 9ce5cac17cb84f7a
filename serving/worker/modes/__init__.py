"""The loops of a worker: dedicated, shared with its pipeline, asynchronous."""
