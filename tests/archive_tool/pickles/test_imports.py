"""What a pickle would import, read without unpickling it."""

import io
import os
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_tool.pickles import budget, names
from archive_tool.pickles import imports as pickles
from tests.archive_tool.hostile import Unknown, attack


def imports(data):
    return pickles.imports(io.BytesIO(data))


@pytest.mark.parametrize("protocol", range(6))
def test_an_attack_in_every_protocol(protocol):
    found = imports(attack(protocol))
    assert found.complete
    assert found.names == {f"{os.name}.mkdir" if os.name != "nt" else "nt.mkdir"}
    assert not names.is_data(next(iter(found.names)))


@pytest.mark.parametrize("protocol", range(6))
def test_data_in_every_protocol(protocol):
    values = [
        1,
        2.5,
        "text",
        b"bytes",
        None,
        True,
        (1, 2),
        {1, 2},
        [],
        {},
        2**70,
        "é\n\\",
        complex(1, 2),
        frozenset({3}),
    ]
    values += [bytearray(b"x"), OrderedDict(a=1), Counter("aab"), slice(1, 2), range(3)]
    found = imports(pickle.dumps(values, protocol))
    assert found.complete
    assert not found.unknown
    assert all(names.is_data(name) for name in found.names)


def test_numbers_of_numpy_are_data():
    data = pickle.dumps({"array": numpy.arange(5.0), "number": numpy.float64(0.5), "large": numpy.zeros(10**6)})
    found = imports(data)
    assert found.names
    assert all(map(names.is_data, found.names))


def test_a_class_is_no_data():
    found = imports(pickle.dumps(Unknown()))
    assert [name for name in found.names if not names.is_data(name)] == [f"{Unknown.__module__}.Unknown"]


BUILT = {
    "GLOBAL": b"cposix\nsystem\n.",
    "INST": b"(S'x'\niposix\nsystem\n",
    "OBJ": b"(cposix\nsystem\nS'x'\no",
    "NEWOBJ": b"cposix\nsystem\n)\x81",
    "BUILD": b"cposix\nsystem\n)b",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
    "memo": b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x940h\x00h\x01\x93.",
    "memo of another place": b"\x80\x04\x8c\x05posixq\x07\x8c\x06systemr\x09\x00\x00\x0000h\x07j\x09\x00\x00\x00\x93.",
    "put by the top, not by what came last": b"\x80\x04\x8c\x05posix\x8c\x0bcollections0\x94\x8c\x06system\x93.",
    "doubled": b"\x80\x04\x8c\x05posix20\x8c\x06system\x93.",
    "text lines": b"Vposix\nVsystem\n\x93.",
    "quoted": b"S'posix'\nS\"system\"\n\x93.",
    "decoy on top": b"\x80\x04\x8c\x05posix\x8c\x06system\x8c\x0bcollections\x8c\x0bOrderedDict00\x93.",
    "decoy below a mark": b"\x80\x04\x8c\x05posix\x8c\x06system(\x8c\x01a1\x93.",
    "after a list": b"\x80\x04](K\x01e0\x8c\x05posix\x8c\x06system\x93.",
    "after a tuple": b"\x80\x04(K\x01t0\x8c\x05posix\x8c\x06system\x93.",
    "after a dict": b"\x80\x04}(K\x01K\x02u0\x8c\x05posix\x8c\x06system\x93.",
    "long text": b"\x80\x04X\x05\0\0\0posix\x8d\x06\0\0\0\0\0\0\0system\x93.",
    "bytes of Python 2": b"U\x05posixT\x06\0\0\0system\x93.",
    "a later pickle": pickle.dumps(1) + b"cposix\nsystem\n.",
    "no end": b"cposix\nsystem\n(S'x'\ntR",
    "damaged after it": b"cposix\nsystem\n(S'x'\ntR\xff\xff\xff",
    "damaged after it, with a mark": b"\x80\x02cposix\nsystem\n\xff\xff\xff",
    "behind a large number of bytes": b"\x80\x04B"
    + struct.pack("<I", 100_000)
    + bytes(100_000)
    + b"0cposix\nsystem\n.",
    "behind a long line": b"I" + b"0" * 200_000 + b"\n0cposix\nsystem\n.",
}


@pytest.mark.parametrize("data", BUILT.values(), ids=BUILT)
def test_imports_by_hand(data):
    assert imports(data).names == {"posix.system"}


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04K\x01\x8c\x06system\x93.",  # no text
        b"\x80\x04K\x01q\x050\x8c\x05posixh\x05\x93.",  # what is remembered there is no text
        b"\x80\x04V\\u0070osix\nVsystem\n\x93.",  # escaped
        b"\x80\x04X" + struct.pack("<I", 2000) + b"x" * 2000 + b"\x8c\x01a\x93.",  # longer than any name
        b"\x80\x04\x82\x01.",  # a number that another program registered
        b"\x82\x01.",
        b"c" + b"x" * 200_000 + b"torch\nSize\n.",  # the end of a long line is not a name
        b"ctorch\n" + b"x." * 200_000 + b"Size\n.",
        b"(c" + b"x" * 200_000 + b"\nSize\nNo.",
        b"V" + b"x" * 200_000 + b"torch\nVSize\n\x93.",
        b"S'" + b"x" * 200_000 + b"torch'\nVSize\n\x93.",
        b"\x80\x04\x8c\x05posix\x94K\x01q\x000\x8c\x06system0h\x00\x8c\x06system\x93.",  # remembered anew
    ],
)
def test_an_import_that_cannot_be_told(data):
    assert imports(data).unknown


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        b"import os\nimport sys\n",
        b"cat\ndog\nhorse\n",
        b"iris\nrose\nlily\n",
        b"at.x\nb\n",
        b"0000cposix\nsystem\n.",
        b"h\x00cposix\nsystem\n.",
        b"tcposix\nsystem\n.",
        b"\x94cposix\nsystem\n.",
        b"q\x00cposix\nsystem\n.",
        b"class Net:\n    pass\n",
        b"\x93",
        b"\xff" * 100,
        b"S'a\n.",
        b"c\xff\xfe\nx\n.",
        b"\x8a\xff",
        b"X\xff\xff\xff\xff",
        b"gx\n.",
        b"T\xff\xff\xff\xff.",
        b"\x8e" + b"\xff" * 8 + b".",
    ],
)
def test_what_is_no_pickle(data):
    found = imports(data)
    assert not found.names
    assert not found.unknown


def test_a_text_of_python_2_that_is_no_utf8_does_not_stop_the_reading():
    assert imports(b"U\x02\xff\xfe0cposix\nsystem\n.").names == {"posix.system"}


def test_reading_is_given_up(monkeypatch):
    monkeypatch.setattr(budget, "MAX_INSTRUCTIONS", 100)
    assert imports(b"K\x01" * 200).too_long
    assert not imports(b"K\x01" * 99).too_long
    shared = budget.Budget()
    assert not pickles.imports(io.BytesIO(b"K\x01" * 60), shared).too_long
    assert pickles.imports(io.BytesIO(b"K\x01" * 60), shared).too_long
    monkeypatch.setattr(pickles, "MAX_PICKLES", 10)
    assert imports(b"N." * 10).too_long


def test_a_large_pickle_is_not_held_in_memory():
    class Counting(io.BytesIO):
        most = 0

        def read(self, size=-1, /):
            data = super().read(size)
            self.most = max(self.most, len(data))
            return data

    stream = Counting(pickle.dumps([bytes(10**7), "x" * 10**6]))
    found = pickles.imports(stream)
    assert found.complete
    assert stream.most < 100_000


@pytest.mark.parametrize("body", [b"N", b"K\x010", b"\x8c\x01a0", b"(1", b")0", b"ctorch\nSize\n0", b"I1\n0"])
def test_what_is_refused_is_refused_soon(body, monkeypatch):
    """24 MB took 20 seconds; no more of it is read than the bound on instructions says."""
    monkeypatch.setattr(budget, "MAX_INSTRUCTIONS", 10_000)
    stream = io.BytesIO(b"\x80\x02" + body * (24_000_000 // len(body)))
    assert pickles.imports(stream).too_long
    assert stream.tell() < 1_000_000


def test_100_000_tensors_are_not_too_many():
    stream = io.BytesIO()
    torch.save({f"layers.{number}.weight": torch.zeros(1) for number in range(1000)}, stream)
    used = budget.Budget()
    with zipfile.ZipFile(stream) as archive, archive.open("archive/data.pkl") as member:
        assert pickles.imports(member, used).complete
    assert (budget.MAX_INSTRUCTIONS - used.left) * 100 < budget.MAX_INSTRUCTIONS * 1.05


def test_what_is_imported_must_stay_as_it_is():
    """A pickle may give a class other attributes, or a list of a module more items; none that is data does."""
    for body in (b"ctorch\nSize\n}b.", b"ctorch\nSize\nK\x01K\x02s.", b"ctorch\nSize\n(K\x01e."):
        assert imports(b"\x80\x02" + body).changes
    assert imports(b"\x80\x02ctorch\nSize\nq\x000h\x00}b.").changes
    assert not imports(b"\x80\x02ctorch\nSize\n)R}b.").changes


def test_a_line_that_the_end_of_the_file_ends():
    """An unpickler takes the last byte for the line's end, whatever it is."""
    assert imports(b"\x80\x02cposix\nsystemX").names == {"posix.system"}


def test_a_stream_that_cannot_jump():
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    assert pickles.imports(Pipe(pickle.dumps(bytes(10**6)) + b"cposix\nsystem\n.")).names == {"posix.system"}


def test_what_torch_accepts_as_data_is_data_to_us():
    from torch._weights_only_unpickler import _get_allowed_globals

    assert [name for name in _get_allowed_globals() if not names.is_data(name)] == []


def test_a_nested_tensor_is_data_whatever_torch_wrote_it():
    assert names.is_data("torch._utils._rebuild_nested_tensor")


def test_no_function_of_torch_is_data_but_those_that_make_tensors():
    functions = [f"torch.{name}" for name in dir(torch) if not isinstance(getattr(torch, name), (type, torch.dtype))]
    accepted = {name for name in functions if names.is_data(name)}
    kinds = "tensor_affine tensor_symmetric channel_affine channel_symmetric channel_affine_float_qparams"
    assert accepted <= {f"torch.per_{kind}" for kind in kinds.split()}
    for name in ("torch.load", "torch.hub.load", "torch.compile", "torch.cuda.x", "torch._utils._import_dotted_name"):
        assert not names.is_data(name)


@pytest.mark.parametrize(
    "name", ["builtins.eval", "builtins.getattr", "collections.OrderedDict.x", "os.system", "OrderedDict", ""]
)
def test_what_is_no_data(name):
    assert not names.is_data(name)


@pytest.mark.parametrize(
    "name",
    [
        "torch.jit._pickle.__builtins__.__getitem__",
        "torch.jit._pickle.List.__class__",
        "torch.jit._pickle.build_intlist.__globals__",
        "__torch__.a.__class__.__mro__ ",
        "torch.float32.__class__",
        "torch.FloatTensor.__class__",
        "torch.jit._pickle.TYPE_CHECKING",
    ],
)
def test_what_stands_below_a_harmless_name(name):
    assert not names.is_data(name)
    assert not names.is_data(name, torchscript=True) or name.startswith("__torch__.")


def test_the_names_of_torchscript_are_data_there_only():
    for name in ("torch.jit._pickle.build_intlist", "__torch__.torch.nn.Linear", "__torch__.___torch_mangle_3.Net"):
        assert names.is_data(name, torchscript=True)
        assert not names.is_data(name)


def test_names_of_python_2():
    assert imports(b"c__builtin__\nset\n.").names == {"builtins.set"}
    assert imports(b"c__builtin__\neval\n.").names == {"builtins.eval"}


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.lists(st.sampled_from(list(BUILT.values()))).map(b"".join))
def test_any_bytes_are_read_or_given_up(data):
    """Nothing is raised, whatever the bytes."""
    imports(data)


@settings(max_examples=150, deadline=None)
@given(st.recursive(
    st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.just(os.mkdir),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5) | st.tuples(inner, inner),
    max_leaves=30,
), st.integers(0, 5))  # fmt: skip
def test_the_imports_are_those_that_unpickling_asks_for(value, protocol):
    asked = set()

    class Asking(pickle.Unpickler):
        def find_class(self, module, name):
            asked.add((module, name))
            return super().find_class(module, name)

    data = pickle.dumps(value, protocol)
    Asking(io.BytesIO(data)).load()
    assert {names.of(module, name, protocol) for module, name in asked} == imports(data).names


@pytest.mark.parametrize(
    "module", ["a-b", "a b", "1", ".os", "os.", "", "a.b-c", "é", "a\0b", "\udc80", "lambda", "a/b"]
)
@pytest.mark.parametrize("attribute", ["system", "os.system", "", "a-b", "x y"])
def test_an_import_counts_whatever_its_name_looks_like(module, attribute):
    lines = b"c" + module.encode("utf-8", "surrogatepass") + b"\n" + attribute.encode() + b"\n)R."
    assert imports(lines).names == {f"{module}.{attribute}"}
    texts = [struct.pack("<BI", ord("X"), len(text)) + text for text in lines[1:-3].split(b"\n")[:2]]
    assert imports(b"\x80\x04" + b"".join(texts) + b"\x93.").names == {f"{module}.{attribute}"}


def test_names_of_python_2_in_newer_pickles():
    """There an unpickler takes them as they are: a module of the archive may be called so."""
    for module, name in (("__builtin__", "int"), ("copy_reg", "_reconstructor"), ("exceptions", "int")):
        (found,) = imports(f"\x80\x02c{module}\n{name}\n.".encode("latin-1")).names
        assert names.is_data(found) == (module != "exceptions")
        for protocol in "\x03\x04\x05":
            (found,) = imports(f"\x80{protocol}c{module}\n{name}\n.".encode("latin-1")).names
            assert not names.is_data(found)
