"""The stack machine is bounded, and forgets one pickle before the next; what it finds is tested in test_imports.py."""

import io

import pytest

from archive_tool.pickles import machine
from archive_tool.pickles.blocks import Blocks
from archive_tool.pickles.budget import Budget


def machine_of(data):
    found = machine.Findings()
    return machine.Machine(Blocks(io.BytesIO(data)), found, Budget()), found


@pytest.mark.parametrize("body", [b"K\x01" * 60, b"(" * 60, b"N" + b"\x94" * 60], ids=["stack", "marks", "memo"])
def test_what_it_holds_is_bounded(monkeypatch, body):
    monkeypatch.setattr(machine, "MAX_DEPTH", 50)
    one, _ = machine_of(body + b".")
    with pytest.raises(machine.TooLongError):
        one.run()
    one, _ = machine_of(b"K\x010" * 60 + b"N.")
    one.run()


def test_nothing_of_a_pickle_is_left_for_the_next():
    one, found = machine_of(b"\x80\x04\x8c\x02os\x94N." + b"\x80\x04h\x00\x8c\x06system\x93.")
    one.run()
    with pytest.raises(machine.StopReadingError):
        one.run()
    assert found == machine.Findings()
