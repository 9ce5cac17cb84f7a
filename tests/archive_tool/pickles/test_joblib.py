"""Files of joblib: the end of an array's numbers is known from values, all of which must be plain."""

import io

import joblib
import numpy
import pytest

from archive_tool.pickles import joblib as followed
from archive_tool.pickles.budget import Budget
from archive_tool.pickles.values import PickleError

NUMBERS = 7


def text(data):
    return b"\x8c" + bytes([len(data)]) + data


def named(module, name):
    return text(module) + text(name) + b"\x93"


STATE = b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
TYPE = named(b"numpy", b"dtype") + text(b"i1") + b"\x89\x88\x87R" + STATE
WRAPPER = named(b"joblib.numpy_pickle", b"NumpyArrayWrapper")
ATTRIBUTES = {
    b"subclass": named(b"numpy", b"ndarray"),
    b"shape": b"K" + bytes([NUMBERS]) + b"\x85",
    b"order": text(b"C"),
    b"dtype": TYPE,
    b"allow_mmap": b"\x89",
}
ALIGNMENT = text(b"numpy_array_alignment_bytes")


def state(more=b"", **other):
    values = ATTRIBUTES | {name.encode(): value for name, value in other.items()}
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + more + b"u"


def names(data):
    return followed.names(io.BytesIO(data), len(data), Budget())


def file(wrapper=WRAPPER + b")\x81", told=None, numbers=bytes(NUMBERS), then=b"."):
    return b"\x80\x04" + wrapper + (told or state()) + b"b" + numbers + then


def test_an_array_that_is_described_as_joblib_does():
    assert names(file()) == {"joblib.numpy_pickle.NumpyArrayWrapper", "numpy.dtype", "numpy.ndarray"}
    aligned = state(ALIGNMENT + b"K\x10")
    assert names(file(told=aligned, numbers=b"\2\xff\xff" + bytes(NUMBERS)))
    assert (joblib.load(io.BytesIO(file())) == numpy.zeros(NUMBERS)).all()


COMPUTED = named(b"builtins", b"str") + text(b"dtype") + b"\x85R"
NONE = named(b"collections", b"OrderedDict") + b")R"
ARGS = b"(" + b"".join(ATTRIBUTES[key] for key in (b"subclass", b"shape", b"order", b"dtype")) + b"t"
ODD = {
    "a computed key": file(told=state(COMPUTED + TYPE)),
    "another attribute": file(told=state(text(b"read") + b"N")),
    "a computed alignment": file(told=state(ALIGNMENT + NONE)),
    "made by its constructor, which aligns": file(WRAPPER + ARGS + b"R"),
    "made by what is computed": file(WRAPPER + named(b"builtins", b"tuple") + b"]\x85R\x81"),
    "two states": file(then=b"0h\x00" + state() + b"b" + bytes(NUMBERS) + b".", wrapper=WRAPPER + b")\x81\x94"),
    "a computed side": file(told=state(shape=named(b"builtins", b"int") + b")R\x85")),
    "sides without end": file(told=state(shape=b"(" + b"K\x01" * 65 + b"t")),
    "a type with two states": file(told=state(dtype=TYPE + STATE)),
    "a type of objects": file(told=state(dtype=TYPE.replace(b"i1", b"O8"))),
    "a type that is computed": file(told=state(dtype=TYPE.replace(text(b"i1"), COMPUTED))),
    "what is imported is changed": file(then=b"0" + WRAPPER + b"}b."),
    "what is imported is given items": file(then=b"0" + WRAPPER + b"K\x01K\x01s."),
    "what is computed is called": file(then=b"0" + COMPUTED + b")R."),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_described_in_another_way(kind):
    with pytest.raises(PickleError):
        names(ODD[kind])
