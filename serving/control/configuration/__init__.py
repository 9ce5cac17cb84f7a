"""The settings that a server is started with, and the Java that runs it."""
