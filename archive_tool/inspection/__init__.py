"""What an archive holds, what it would do on this machine, and in what two differ."""
