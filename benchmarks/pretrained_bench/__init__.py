"""The parts of `pretrained.py`: clients that ask for texts token by token, and what is measured without a server."""
