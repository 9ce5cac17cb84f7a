"""What is kept of requests beside metrics and logs, where it is asked for: traces, and captured payloads."""
