"""The names that a pickle would import, read without unpickling it.

A pickle is a program for a stack machine (the standard library's `pickletools` lists its instructions). It runs code
through what it imports only, so a pickle is data if it imports nothing but constructors of data. The reading is in
constant memory, for a checkpoint of gigabytes may be one pickle, and it simulates the stack, for the names of an
import may have been pushed long before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Final

from archive_tool.pickles.blocks import Blocks, ShortError
from archive_tool.pickles.budget import Budget
from archive_tool.pickles.instructions import StopReadingError
from archive_tool.pickles.machine import Findings, Machine, TooLongError

#: Pickles may follow each other in a file; old checkpoints of torch are five.
MAX_PICKLES: Final = 1000


@dataclass
class Imports(Findings):
    """What a pickle, or several in a row, would import.

    Attributes:
        too_long: reading was given up.
        cut: the stream ended within a pickle.
        count: so many pickles were read to their end.
        first_end: bytes of the first one.
        end: bytes of all of these.
    """

    too_long: bool = False
    cut: bool = False
    count: int = 0
    first_end: int = 0
    end: int = 0

    @property
    def complete(self) -> bool:
        """Return whether at least one pickle was read to its end."""
        return self.count > 0


def imports(stream: IO[bytes], budget: Budget | None = None) -> Imports:
    """Read the pickles that begin at the stream's position.

    What precedes a damaged place counts: an unpickler has run it when it comes there. Many a text file begins like a
    pickle of protocol 0, which has no mark of its own; what such a one imports counts if it is called, or if the pickle
    ends as it should.

    Args:
        stream: seekable, or it is read through; stands anywhere afterwards.
        budget: of instructions; by default one for this call.

    Raises:
        OSError, ArchiveError: the stream cannot be read.
    """
    found = Imports()
    source = Blocks(stream)
    machine = Machine(source, found, budget or Budget())
    try:
        for _ in range(MAX_PICKLES):
            machine.run()
            found.count += 1
            found.end = source.told()
            found.first_end = found.first_end or found.end
        found.too_long = True
    except StopReadingError:
        pass
    except ShortError:
        found.cut = source.told() > found.end
    except TooLongError:
        found.too_long = True
    return found
