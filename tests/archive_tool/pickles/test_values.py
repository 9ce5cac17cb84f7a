"""Pickles that are followed and not obeyed."""

import contextlib
import io
import pickle
import pickletools
import struct
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.pickles.values import External, Followed, Global, Node, PickleError, follow

PLAIN = [None, True, False, 7, -(2**70), 1.5, "text", b"bytes", [1, [2]], {"a": {"b": (1, 2, 3, 4)}}, (), (1,), (1, 2)]


def of(data: bytes) -> Followed:
    return follow(io.BytesIO(data))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_come_as_they_are(value, protocol):
    followed = of(pickle.dumps(value, protocol))
    # Bytes are made by a call before protocol 3.
    if not (isinstance(value, bytes) and protocol < 3):
        assert followed.value == value
        assert followed.names == ()


def test_large_containers():
    value = {"list": list(range(5000)), "dict": {str(key): key for key in range(5000)}}
    assert of(pickle.dumps(value)).value == value


class Evil:
    def __reduce__(self):
        return (print, ("never",))


class Plain:
    def __init__(self):
        self.attribute = 3


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_calls_are_written_down(capsys, protocol):
    followed = of(pickle.dumps([Evil()], protocol))
    (node,) = followed.value
    assert isinstance(node, Node)
    assert node.function in ("builtins.print", "__builtin__.print")
    assert node.args == ("never",)
    assert followed.names == (node.function,)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_with_a_state(protocol):
    assert f"{__name__}.Plain" in of(pickle.dumps(Plain(), protocol)).names
    assert of(pickle.dumps(Plain(), protocol)).value.state == {"attribute": 3}


def test_items_and_values_of_what_a_call_makes():
    node = of(pickle.dumps(OrderedDict(a=1, b=2))).value
    assert (node.function, node.items) == ("collections.OrderedDict", {"a": 1, "b": 2})
    assert of(pickle.dumps({1, 2}, 4)).value == [1, 2]


def test_what_stands_elsewhere():
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", int, "0") if obj == "here" else None

    sink = io.BytesIO()
    Pickler(sink).dump(["here"])
    ((external),) = of(sink.getvalue()).value
    assert isinstance(external, External)
    assert external.key[0] == "storage"
    assert isinstance(external.key[1], Global)
    assert external.key[1].name == "builtins.int"


def test_older_opcodes():
    assert of(b"(I1\nI2\ntp0\n0g0\n.").value == (1, 2)
    assert of(b"(S'a'\nI1\nd.").value == {"a": 1}
    assert of(b"(I1\nl.").value == [1]
    assert of(b"(I1\n1I5\n.").value == 5  # POP_MARK
    node = of(b"(I1\nimodule\nName\n.").value
    assert (node.function, node.args) == ("module.Name", (1,))
    node = of(b"(cmodule\nName\nI1\no.").value
    assert (node.function, node.args) == ("module.Name", (1,))
    assert of(b"Pid\n.").value.key == "id"
    assert of(b"I3\n2\x86.").value == (3, 3)  # DUP
    assert of(b"\x82\x01.").names == ("copyreg.extension_1",)
    assert of(b"\x80\x05\x97.").value.key is None
    assert of(b"\x8c\x06module\x8c\x04Name)}\x92.").value.function == "?"
    assert of(b"I1\nI2\n\x93.").names == ("?",)


def test_several_pickles_in_a_stream():
    stream = io.BytesIO(pickle.dumps(1) + pickle.dumps("two"))
    assert [follow(stream).value, follow(stream).value] == [1, "two"]


@pytest.mark.parametrize(
    "data",
    [b"", b".", b"t.", b"g5\n.", b"\x80", b"no pickle", b"(I1\n", b"R.", b"b.", b"u.", b"s.", b"1.", b"o.", b"\x81."],
)
def test_what_cannot_be_followed(data):
    with pytest.raises(PickleError):
        of(data)


def test_damaged_texts_are_no_warnings():
    assert of(b"S'\\o'\n.").value == "\\o"


def test_opcodes_are_bounded():
    data = b"N0" * 50 + b"N."
    assert follow(io.BytesIO(data), max_opcodes=102).value is None
    with pytest.raises(PickleError, match="more than 101 opcodes"):
        follow(io.BytesIO(data), max_opcodes=101)


def test_a_large_memo_index_takes_no_memory():
    data = b"N" + b"r" + struct.pack("<I", 2**32 - 1) + b"."
    assert of(data).value is None


def test_nested_tuples_as_keys_are_not_hashed():
    """Each is the pair of the one before twice: to hash the last one would take longer than there is time."""
    data = b"}" + b"N" + b"2\x86" * 100 + b"Ns."
    pickletools.dis(data, out=io.StringIO())
    (value,) = of(data).value.values()
    assert value is None


@given(st.binary(max_size=200))
def test_any_bytes(data):
    """Whatever the bytes are: they are followed, or a PickleError says that they cannot be."""
    with contextlib.suppress(PickleError):
        of(data)


GOOD = pickle.dumps({"a": [OrderedDict(b=Plain()), (1, 2.5, b"x", None)], "c": {3}}, 2)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte(position, byte):
    data = bytearray(GOOD)
    data[position] = byte
    with contextlib.suppress(PickleError):
        of(bytes(data))
