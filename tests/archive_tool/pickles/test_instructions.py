"""Instructions read what unpicklers read, and take and leave as many values."""

import io
import pickletools

import pytest

from archive_tool.pickles.blocks import Blocks
from archive_tool.pickles.instructions import INSTRUCTIONS, LARGEST_FIXED, StopReadingError, decoded, has_plain_value


def read(name, argument):
    """Return what an instruction reads of bytes, and how many are left."""
    source = Blocks(io.BytesIO(argument))
    code = INSTRUCTIONS[name]
    value = code.read(source, code.size)
    return value, len(argument) - source.told()


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("BININT", b"\xff\xff\xff\xff", -1),
        ("BININT2", b"\xff\xff", 65535),
        ("INT", b"-12\n", -12),
        ("INT", b"01\n", 1),
        ("INT", b"1_0\n", None),
        ("BINUNICODE", b"\x02\0\0\0\xc3\xa4", "ä"),
        ("BINUNICODE", b"\x01\x01\0\0" + b"x" * 257, None),  # no name is as long
        ("SHORT_BINSTRING", b"\x02os", "os"),
        ("SHORT_BINSTRING", b"\x01\xff", None),
        ("STRING", b"'os'\n", "os"),
        ("STRING", b"'\\x6fs'\n", None),
        ("UNICODE", b"os\n", "os"),
        ("FLOAT", b"1.5\n", None),
        ("BINFLOAT", bytes(8), None),
        ("BINBYTES8", b"\x03" + bytes(7) + b"abc", None),
    ],
)
def test_an_argument_is_read_to_its_end(name, argument, value):
    assert read(name, argument + b".") == (value, 1)


@pytest.mark.parametrize(("name", "argument"), [("BINSTRING", b"\xff\xff\xff\xff"), ("STRING", b"os\n")])
def test_what_stops_an_unpickler(name, argument):
    with pytest.raises(StopReadingError):
        read(name, argument)


def test_a_name_is_utf8():
    assert decoded("ä\ud800".encode("utf-8", "surrogatepass")) == "ä\ud800"
    with pytest.raises(StopReadingError):
        decoded(b"\xff")


def test_all_are_known_by_what_they_do_to_the_stack():
    assert len(INSTRUCTIONS) == len(pickletools.opcodes)
    appends, reduce, inst = (INSTRUCTIONS[name] for name in ("APPENDS", "REDUCE", "INST"))
    assert (appends.from_mark, appends.taken, appends.changes) == (True, 1, True)
    assert (reduce.taken, reduce.pushes, reduce.calls) == (2, True, True)
    assert (inst.from_mark, inst.taken, inst.calls) == (True, 0, True)
    plain = {name for name, code in INSTRUCTIONS.items() if has_plain_value(code)}
    assert {"NONE", "NEWTRUE", "EMPTY_DICT", "BINFLOAT"} <= plain
    assert not plain & {"BINUNICODE", "BINBYTES", "REDUCE", "STOP", "TUPLE"}
    assert all(1 + INSTRUCTIONS[name].size <= LARGEST_FIXED for name in plain)
