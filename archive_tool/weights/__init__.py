"""What a file of weights is, holds, and would run."""
