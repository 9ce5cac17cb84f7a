"""Every bound of the protocol, with its source.

A length on the wire is checked against these before anything is reserved for it; what is then reserved follows
what has arrived, so a frame that claims two gigabytes costs nothing until it sends them.
"""

from __future__ import annotations

from typing import Final

INT_MAX: Final = 2**31 - 1
"""All integers on the wire are signed 32-bit, big-endian."""

# Requests. Whatever a client can choose (header values, names of form fields, content types, bodies) is bounded by the
# frame alone: a smaller bound would let one odd but legal request end the worker.

MAX_FRAME: Final = INT_MAX
"""Bytes of a message: the frontend builds a frame in one Netty buffer, whose capacity is a Java int."""

MAX_LOAD_FIELD: Final = 65_536
"""Bytes of a LOAD string. They are file system paths and a handler's name, and PATH_MAX is 4,096."""

MAX_BATCH: Final = 65_536
"""Requests in a message. The operator chooses the batch size; useful ones end at some thousands."""

MAX_HEADERS: Final = 16_384
"""Headers of a request or of an item. Netty accepts 8,192 bytes of request headers: fewer than 2,800 of them."""

MAX_PARAMETERS: Final = 1_048_576
"""Parameters of a request. A form of the default 6,553,500 bytes can hold more, but they would cost a gigabyte here."""

# Replies: what the frontend's decoder accepts. Beyond it, it closes the connection and kills the worker.

MAX_RESPONSE_SIZE: Final = 6_553_500
"""Bytes of each field of a reply: the default of the frontend's `max_response_size`, which it does not tell us."""

MAX_RESPONSE_HEADER: Final = 6_500_000
"""Bytes of the name and of the value of a reply's header: a constant of the frontend."""

STATUS_MIN: Final = 200
"""Lowest status of an answer: negative ones raise in Netty, and after a 1xx the client goes on waiting."""

STATUS_MAX: Final = 999
"""Highest status of an answer: HTTP has three digits."""
