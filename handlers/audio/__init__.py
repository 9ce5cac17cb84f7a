"""The handler for audio, and the decoding of WAV files."""
