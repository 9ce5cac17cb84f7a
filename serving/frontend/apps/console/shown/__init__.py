"""What the pages of the console show: numbers, archives, answers, calls, logs and APIs."""
