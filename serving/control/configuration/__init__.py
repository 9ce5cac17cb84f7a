"""The settings that a server is started with, the Java that runs it, and how a worker is started."""
