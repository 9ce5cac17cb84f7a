"""What is counted and timed: TorchServe's metrics and more of our own, by Prometheus or in log files."""
