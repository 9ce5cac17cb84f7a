"""What an archive holds, what it would do on this machine, and how two archives differ."""
