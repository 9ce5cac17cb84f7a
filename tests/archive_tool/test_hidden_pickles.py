"""Pickles and programs that run code and are hidden: each is run by the loader that reads it, and refused by `verify`.

What the loaders do is done in a child process, in a folder that the pickle makes another folder in.
"""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import zlib

import joblib
import numpy
import pytest
import torch

from archive_tool.issues import Kind
from archive_tool.pickles.imports import imports
from archive_tool.verification.verify import verify
from tests.hostile_programs import attacks

from .hostile import Attack, Member, archive, attack, zip_of

# Each loader is what a worker or the user of a file would call. What one raises after the attack does not matter.
LOADERS = """
import contextlib, io, json, os, pickle, sys, tarfile, warnings, zipfile
import joblib, numpy, torch

def torch_load(path):
    torch.load(path, weights_only=False)

def numpy_load(path):
    found = numpy.load(path, allow_pickle=True)
    if isinstance(found, numpy.lib.npyio.NpzFile):
        for name in found.files:
            found[name]

def numpy_load_twice(path):
    with open(path, "rb") as stream:
        numpy.load(stream, allow_pickle=True)
        numpy.load(stream, allow_pickle=True)

def joblib_load(path):
    joblib.load(path)

def pickle_load(path):
    with open(path, "rb") as stream:
        pickle.load(stream)

def pickle_load_all(path):
    with open(path, "rb") as stream:
        while True:
            pickle.load(stream)

def gzip_pickle(path):  # pandas.read_pickle does these, by the suffix
    import gzip
    with gzip.open(path) as stream:
        pickle.load(stream)

def bz2_pickle(path):
    import bz2
    with bz2.open(path) as stream:
        pickle.load(stream)

def xz_pickle(path):
    import lzma
    with lzma.open(path) as stream:
        pickle.load(stream)

def zip_pickle(path):
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as stream:
        pickle.load(stream)

def tar_pickle(path):
    with tarfile.open(path, "r:*") as archive:
        pickle.load(archive.extractfile(archive.getnames()[-1]))

def package(path):
    torch.package.PackageImporter(path).load_pickle("w", "data.pkl")

def export_load(path):
    return torch.export.load(path)

def inputs(rows):
    return ({"in": torch.ones(rows, 3)}, "sum"), {"k": torch.ones(2)}

def export_run(path):
    args, named = inputs(2)
    return torch.export.load(path).module()(*args, **named)

for case, path, loader in json.load(sys.stdin):
    child = os.fork()
    if not child:
        os.chdir(case)
        warnings.simplefilter("ignore")
        with contextlib.suppress(BaseException):
            globals()[loader](path)
        os._exit(0)
    os.waitpid(child, 0)
"""


def getitem():
    """Return a pickle that calls what stands below a harmless module: eval, from `__builtins__`."""
    code = b"__import__('os').mkdir('pwned')"
    module, name = b"torch.jit._pickle", b"__builtins__.__getitem__"
    head = b"\x80\x04\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name
    return head + b"\x93\x8c\x04eval\x85R\x8c" + bytes([len(code)]) + code + b"\x85R."


def short_text(text):
    data = text.encode()
    return b"\x8c" + bytes([len(data)]) + data


def no_identifier(module="sympy.parsing.autolev.test-examples.ruletest1", name="_np.lib._datasource.os.mkdir"):
    """Return a pickle whose module has a name that no statement could import; torch brings this one along."""
    return b"\x80\x04" + short_text(module) + short_text(name) + b"\x93\x8c\x05pwned\x85R."


def named(module, name):
    return short_text(module) + short_text(name) + b"\x93"


PLAIN = b"(K\x03" + short_text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def element_type(code, state=PLAIN):
    """Return a type of numpy's, as it is pickled."""
    return named("numpy", "dtype") + short_text(code) + b"\x89\x88\x87R" + state


def wrapper(size, more=b""):
    """Return what joblib writes before an array of so many bytes, with something added to its state."""
    state = b"".join(
        short_text(key) + value
        for key, value in (
            ("subclass", named("numpy", "ndarray")),
            ("shape", b"K" + bytes([size]) + b"\x85"),
            ("order", short_text("C")),
            ("dtype", element_type("i1")),
            ("allow_mmap", b"\x89"),
        )
    )
    return named("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81}(" + state + more + b"ub"


def within_numbers():
    """Return a pickle in the place of an array's numbers, harmless to a reader with another memo."""
    inner = short_text(os.name) + b"\x94" + short_text("mkdir") + b"\x94h\x00h\x01\x93"
    inner += short_text("pwned") + b"\x85R."
    return inner, b"\x80\x04" + short_text("builtins") + b"\x94" + short_text("int") + b"\x9400"


def computed_key():
    """Return two equal keys in a file of joblib, the later of which is computed, which says that there are objects."""
    inner, head = within_numbers()
    objects = named("builtins", "str") + short_text("dtype") + b"\x85R" + element_type("O", b"")
    return head + wrapper(len(inner), objects) + inner + b"."


def npy(header, data, version=b"\1\0"):
    text = header.encode("utf-8") + b"\n"
    width = "<H" if version == b"\1\0" else "<I"
    return b"\x93NUMPY" + version + struct.pack(width, len(text)) + text + data


OBJECT = "'fortran_order': False, 'shape': (1,)"
OBJECTS = {
    "called object": f"{{'descr': 'object', {OBJECT}}}",
    "called object_": f"{{'descr': 'object_', {OBJECT}}}",
    "with a size": f"{{'descr': 'O8', {OBJECT}}}",
    "a second key": f"{{'descr': '<f8', {OBJECT}, 'descr': '|O'}}",
    "an escaped letter": f"{{'descr': '\\x4f', {OBJECT}}}",
    "joined texts": f"{{'descr': '|' 'O', {OBJECT}}}",
    "an escaped key": f"{{'\\x64escr': 'O', {OBJECT}}} # 'descr': '<f8', 'fortran_order'",
    "a comment": f"{{ # 'descr': '<f8', 'fortran_order'\n 'descr': 'O', {OBJECT}}}",
    "a field": f"{{'descr': [('a', 'O')], {OBJECT}}}",
    "fields": f"{{'descr': [('a', '<f8'), (('t', 'b'), '|O', (1,))], {OBJECT}}}",
    "in double quotes": '{"descr": "O", "fortran_order": False, "shape": (1,)}',
    "a subarray": f"{{'descr': ('O', (1,)), {OBJECT}}}",
}


def tar_of(*members, magic=True):
    """Return a tar with members, each a name and its bytes, or a name and that of another that it is a hard link to."""
    out = b""
    for name, content in members:
        info = tarfile.TarInfo(name)
        if isinstance(content, str):
            info.type, info.linkname = tarfile.LNKTYPE, content
        else:
            info.size = len(content)
        header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
        if not magic:
            header[257:265] = bytes(8)
            header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:]))
        out += header + (b"" if isinstance(content, str) else content + bytes(-len(content) % 512))
    return out + bytes(10240)


def old_torch(data):
    """Return the parts of a checkpoint of torch before 0.2; pickles stand between the numbers of its storages."""
    numbers = struct.pack("<q", 2) + bytes(8)
    first = pickle.dumps(("1", "cpu", torch.FloatStorage), 2)
    return pickle.dumps(2, 2) + first + numbers + data


def renamed_for_others(data):
    """Return a checkpoint whose pickle some readers of zips, Python 3.13 among them, see under the name of a text."""
    other = struct.pack("<BI", 1, zlib.crc32(b"w/data.pkl")) + b"w/data.txt"
    extra = struct.pack("<2H", 0x7075, len(other)) + other
    return zip_of(Member(b"w/data.pkl", data, central={"extra": extra}), Member(b"w/version", b"3\n"))


def legacy(*values):
    numbers = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001}, *values]
    return b"".join(value if isinstance(value, bytes) else pickle.dumps(value, 2) for value in numbers)


def saved_by_joblib(value):
    stream = io.BytesIO()
    joblib.dump(value, stream)
    return stream.getvalue()


def behind_an_array(inner):
    """Return a file of joblib in which an attack stands behind the numbers of an array, which are not a pickle."""
    return saved_by_joblib([numpy.full(100, 3.0), inner])


def within_a_frame():
    """Return a file of joblib whose array begins behind the frame; the frame's content looks like its numbers."""
    data = saved_by_joblib(numpy.zeros(50, numpy.uint8))
    build = max(pos for code, _, pos in _until_build(data) if code.name == "BUILD") + 1
    inner = attack(2)[2:-1] + b"0"
    frame = next(pos for code, _, pos in _until_build(data) if code.name == "FRAME")
    length = build - frame - 9 + len(inner) + 1
    head = data[:frame] + b"\x95" + struct.pack("<Q", length) + data[frame + 9 : build]
    return head + b"0" + inner + b"\0" * 51 + b"N."


def _until_build(data):
    with contextlib.suppress(ValueError):
        yield from pickletools.genops(data)


def deflated(name, data):
    return zip_of(Member(name, data, method=8))


def torch_members(data, name=b"data.pkl"):
    return [Member(b"w/" + name, data), Member(b"w/version", b"3\n"), Member(b"w/byteorder", b"little")]


def torch_zip(data, name=b"data.pkl"):
    return zip_of(*torch_members(data, name))


def shifted(prefix, data):
    """Return a zip with bytes before it, whose directory still has the right places."""
    return zip_of(*data, before=prefix)


INSTANCES = {
    "INST": b"(S'pwned'\nios\nmkdir\n.",
    "OBJ": b"(cos\nmkdir\nS'pwned'\no.",
    "no STOP": b"cos\nmkdir\n(S'pwned'\ntR",
    "lines": b"Vos\nVmkdir\n\x93(Vpwned\ntR.",
}

PAYLOAD = [Member(b"a.txt", attack(0))]


def _cases():
    """Yield name of the kind, name of the file, its bytes, and what loads it."""
    for suffix in ["pkl", "pickle", "p", "pk", "bin", "ckpt", "sav", "dat", "data", "model", "weights", "joblib"]:
        yield "protocol 0", f"m.{suffix}", attack(0), "pickle_load"
    yield "protocol 0", "m", attack(1), "pickle_load"
    yield "protocol 0", "m.unheard-of", attack(0), "pickle_load"
    yield "protocol 0", "m.npy", attack(0), "numpy_load"
    yield "protocol 0", "m.npz", attack(1), "numpy_load"
    yield "protocol 0", "m.safetensors", attack(0), "pickle_load"
    yield "protocol 0", "m.onnx", attack(1), "pickle_load"
    for what, data in INSTANCES.items():
        yield f"instruction {what}", "m.pt", data, "pickle_load"
    yield "dotted name", "m.pkl", getitem(), "pickle_load"
    yield "dotted name", "m.joblib", getitem(), "joblib_load"
    yield "dotted name in a checkpoint", "m.pth", torch_zip(getitem()), "torch_load"
    yield "dotted name in a checkpoint", "m.ckpt", legacy(getitem()), "torch_load"
    for suffix in ("pkl", "sav", "bin", "unheard-of"):
        yield "module that is no identifier", f"i.{suffix}", no_identifier(), "pickle_load"
    yield "module that is no identifier", "i.npy", no_identifier(), "numpy_load"
    yield "module that is no identifier", "i.joblib", no_identifier(), "joblib_load"
    yield "module that is no identifier", "i.pt", torch_zip(no_identifier()), "torch_load"
    yield "module that is no identifier", "j.pt", legacy(no_identifier()), "torch_load"
    for what, header in OBJECTS.items():
        yield "type of objects", f"{what}.npy", npy(header, attack()), "numpy_load"
    yield "type of objects", "v2.npy", npy(OBJECTS["called object"], attack(), b"\2\0"), "numpy_load"
    yield "type of objects", "v3.npy", npy(OBJECTS["called object"], attack(), b"\3\0"), "numpy_load"
    hidden = npy(OBJECTS["an escaped letter"], attack())
    yield "type of objects in npz", "m.npz", zip_of(Member(b"a.npy", hidden)), "numpy_load"
    yield "type of objects in npz", "n.npz", deflated(b"a", hidden), "numpy_load"
    plain = io.BytesIO()
    numpy.save(plain, numpy.zeros(3))
    yield "second array", "m.npy", plain.getvalue() + hidden, "numpy_load_twice"
    for magic in (True, False):
        what = "tar" if magic else "tar without magic"
        yield what, "m.pt", tar_of(("storages", attack()), magic=magic), "torch_load"
        yield what, "m.tar", tar_of(("a.txt", attack(0)), magic=magic), "tar_pickle"
        yield f"{what}, linked", "l.pt", tar_of(("a.txt", attack(0)), ("storages", "a.txt"), magic=magic), "torch_load"
        yield f"{what}, linked", "l.tar", tar_of(("a.txt", attack(0)), ("b", "a.txt"), magic=magic), "tar_pickle"
        yield f"{what}, behind numbers", "n.pt", tar_of(("storages", old_torch(attack())), magic=magic), "torch_load"
    yield "tar.gz", "m.tar.gz", gzip.compress(tar_of(("a.txt", attack(0)), magic=False)), "tar_pickle"
    yield "tar.xz", "m.tar.xz", lzma.compress(tar_of(("a.txt", attack(0)))), "tar_pickle"
    packed = {
        "zlib": zlib.compress(attack()),
        "gzip": gzip.compress(attack()),
        "bz2": bz2.compress(attack()),
        "xz": lzma.compress(attack()),
        "lzma": lzma.compress(attack(), format=lzma.FORMAT_ALONE),
    }
    for what, data in packed.items():
        for suffix in ("pkl", "joblib", "sav"):
            yield f"packed by {what}", f"m.{suffix}", data, "joblib_load"
    yield "packed by gzip", "m.pkl.gz", packed["gzip"], "gzip_pickle"
    yield "packed by bz2", "m.pkl.bz2", packed["bz2"], "bz2_pickle"
    yield "packed by xz", "m.pkl.xz", packed["xz"], "xz_pickle"
    for what, prefix in {"a script": b"#!/bin/sh\n", "PK78": b"PK\x07\x08", "PK00": b"PK00", "zeros": bytes(9)}.items():
        yield "zip behind other bytes", f"{what}.pkl", shifted(prefix, PAYLOAD), "zip_pickle"
        yield "zip behind other bytes", f"{what}.bin", prefix + zip_of(*PAYLOAD), "zip_pickle"
    yield "zip of one", "m.pkl.zip", deflated(b"a.txt", attack(0)), "zip_pickle"
    yield "zip with a comment", "m.pt", b"\1" + zip_of(*PAYLOAD, comment=b"PK" * 9), "zip_pickle"
    yield "another case in a checkpoint", "m.pt", torch_zip(attack(), name=b"DATA.PKL"), "torch_load"
    yield "another name by an extra field", "m.pt", renamed_for_others(attack(0)), "torch_load"
    yield "another name by an extra field", "m.zip", renamed_for_others(attack(0)), "torch_load"
    ending = zip_of(Member(b"w/data.pkl\0.txt", attack(0)), Member(b"w/version", b"3\n"))
    yield "a name that a NUL ends", "m.zip", ending, "zip_pickle"
    odd = Member(b"w/x.pkl", attack(0), central={"name": b"w/DATA.PKL"})
    yield "another case, another header", "m.zip", zip_of(odd, Member(b"w/version", b"3\n")), "torch_load"
    other = (Member(b"v/constants.pkl", pickle.dumps(())), Member(b"v/code/a.py", b""))
    yield "TorchScript beside a checkpoint", "m.pt", zip_of(*torch_members(getitem()), *other), "zip_pickle"
    extern = Member(b"w/.data/extern_modules", b"os\ntorch\nposix\n")
    data = zip_of(Member(b"w/w/data.pkl", attack()), extern, Member(b"w/version", b"6\n"))
    yield "torch.package", "m.pt", data, "package"
    yield "last pickle of a checkpoint", "m.pt", legacy({}, attack()), "torch_load"
    yield "pickle behind another", "m.pkl", pickle.dumps([1]) + attack(0), "pickle_load_all"
    yield "joblib, behind an array", "m.joblib", behind_an_array(Attack()), "joblib_load"
    yield "joblib, objects", "n.joblib", saved_by_joblib(numpy.array([Attack()], dtype=object)), "joblib_load"
    yield "joblib, a frame", "o.joblib", within_a_frame(), "pickle_load"
    yield "joblib, a computed key", "p.joblib", computed_key(), "joblib_load"
    yield (
        "end of a number",
        "m.pkl",
        b"Vmkdir\np1\0x\n0" + b"V" + os.name.encode() + b"\ng1\n\x93(Vpwned\ntR.",
        "pickle_load",
    )
    polyglot = tar_of(("cos\nmkdir\n(S'pwned'\ntR.", b""))
    yield "a tar that is a pickle", "m.tar", polyglot, "pickle_load"
    for what, program, loader in attacks():
        yield f"program, {what}", "m.pt2", program, loader


@pytest.fixture(scope="module")
def hidden():
    """Return all of them."""
    return list(_cases())


@pytest.mark.slow  # shows that the samples are what they say
def test_each_runs_when_it_is_loaded(hidden, tmp_path):
    jobs = []
    for number, (_, name, data, loader) in enumerate(hidden):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(data)
        jobs.append((str(folder), str(folder / name), loader))
    subprocess.run([sys.executable, "-c", LOADERS], input=json.dumps(jobs).encode(), check=True, timeout=300)
    harmless = [
        (kind, name, loader)
        for number, (kind, name, _, loader) in enumerate(hidden)
        if not (tmp_path / str(number) / "pwned").is_dir()
    ]
    assert harmless == []
    assert len(hidden) >= 60
    assert len({kind for kind, *_ in hidden}) >= 12


def test_each_is_refused_and_not_run(hidden, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    passed = []
    for number, (kind, name, data, _) in enumerate(hidden):
        path = tmp_path / f"{number}.mar"
        path.write_bytes(archive(Member(b"h.py", b""), Member(name.encode(), data)))
        if not any(issue.kind is Kind.UNSAFE for issue in verify(path).issues if issue.member == name):
            passed.append((kind, name))
    assert passed == []
    assert not (tmp_path / "pwned").exists()


def restored(letter, state, raw=b"A" * 8):
    """Return an array of one element, from bytes, whose type is given a state."""
    array = named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    array += b"(K\x01K\x01\x85" + element_type(letter, state) + b"\x89C" + bytes([len(raw)]) + raw + b"tb"
    return b"\x80\x04" + named("builtins", "str") + array + b"\x85R."


FIELD = b"(K\x03" + short_text("|") + b"N" + short_text("f") + b"\x85}" + short_text("f")
LIES = {
    "a field of objects": restored("V8", FIELD + element_type("O", b"") + b"K\x00\x86sK\x08K\x01K\x00tb"),
    "objects without their flag": restored("O", PLAIN),
}


@pytest.mark.parametrize("kind", LIES)
def test_types_that_lie_make_pointers_of_bytes(kind, tmp_path):
    (tmp_path / "m.pkl").write_bytes(LIES[kind])
    run = [sys.executable, "-c", "import pickle; pickle.load(open('m.pkl', 'rb'))"]
    assert subprocess.run(run, cwd=tmp_path, capture_output=True, check=False, timeout=60).returncode < 0
    path = tmp_path / "m.mar"
    path.write_bytes(archive(Member(b"h.py", b""), Member(b"m.pkl", LIES[kind])))
    assert any("makes a type of numpy" in issue.message for issue in verify(path).issues)


USES = {
    "tuple": named("numpy", "dtype") + b"\x85.",
    "list": b"]" + named("numpy", "dtype") + b"a.",
    "items": b"}(" + short_text("a") + named("numpy", "dtype") + b"u.",
    "new": named("numpy", "dtype") + b")\x81.",
    "object": b"(" + named("numpy", "dtype") + b"o.",
    "INST": b"(" + short_text("O") + b"inumpy\ndtype\n.",
}


@pytest.mark.parametrize("use", USES)
def test_who_makes_types_is_given_to_nobody(use):
    """Something else could call it, or give it what is not seen here."""
    assert imports(io.BytesIO(b"\x80\x04" + USES[use])).odd_types
