"""Which archives a server serves: its store, their versions, snapshots, and whether they are trusted."""
