"""What passes the connections of a load test: requests at their times, answers as they are read."""
