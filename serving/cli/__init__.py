"""The commands about servers; archive_tool.cli.entry shows them under the name ``torchmar``.

Each is short: it reads its options, calls ``serving.control`` or ``serving.client``, and prints. What they need is
imported inside them, so that showing help costs nothing.
"""
