"""The engine of one machine: worker processes, their queues and batches, their supervision."""
