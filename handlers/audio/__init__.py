"""The handler for audio, and how WAV is decoded."""
