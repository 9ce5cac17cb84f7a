"""Files that would run code when they are loaded: checkpoints in every format, and archives of them."""

import functools
import gzip
import io
import os
import pickle
import tarfile
import warnings
import zipfile

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_tool.pickles import budget
from archive_tool.weights import scan as checkpoints
from tests.archive_tool.hostile import Attack, Member, Unknown, attack, checkpoint, zip_of


def scan(data, name="weights.pt"):
    return list(checkpoints.scan(io.BytesIO(data), name))


def saved(value, **how):
    stream = io.BytesIO()
    torch.save(value, stream, **how)
    return stream.getvalue()


def tar_of(data, name="pickle", mode="w"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def array_of_objects(value):
    stream = io.BytesIO()
    numpy.save(stream, numpy.array([value], dtype=object), allow_pickle=True)
    return stream.getvalue()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)

    def forward(self, x):
        return self.norm(self.fc(x))


@functools.cache
def honest():
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    state = net.state_dict()
    training = {"model": state, "optimizer": optimizer.state_dict(), "epoch": 3, "best": numpy.float64(0.5)}
    scripted = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net.eval()), scripted)
    odd = {
        "sparse": torch.eye(3).to_sparse(),
        "half": torch.ones(2, dtype=torch.float16),
        "brain": torch.ones(2, dtype=torch.bfloat16),
        "f8": torch.ones(2).to(torch.float8_e4m3fn),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "size": torch.Size([2]),
        "device": torch.device("cpu"),
        "dtype": torch.int64,
    }
    return {
        "state dict": saved(state),
        "legacy": saved(state, _use_new_zipfile_serialization=False),
        "training": saved(training),
        "odd": saved(odd),
        "TorchScript": scripted.getvalue(),
        "pickle": pickle.dumps({"w": numpy.zeros(3)}),
        "array": b"".join([(lambda s: (numpy.save(s, numpy.zeros(3)), s.getvalue())[1])(io.BytesIO())]),
        "empty": b"",
        "zip": zip_of(Member(b"a.txt", b"hello")),
    }


HONEST = ("state dict", "legacy", "training", "odd", "TorchScript", "pickle", "array", "empty", "zip")


@pytest.mark.parametrize("kind", HONEST)
@pytest.mark.parametrize("name", ["weights.pt", "data.bin", "x.npy", "x.whatever"])
def test_honest_files(kind, name):
    assert tuple(honest()) == HONEST
    assert scan(honest()[kind], name) == []


NOTHING_KNOWN = {
    "text": b"import os\nclass Net: pass\n",
    "noise": bytes(range(256)) * 20,
    "a pickle without an end": pickle.dumps({"w": 1})[:-1],
    "an old checkpoint without an end": saved({"w": torch.ones(99)}, _use_new_zipfile_serialization=False)[:200],
    "a pickle with bytes behind it": pickle.dumps({"w": 1}) + b"\0\0",
    "an array without an end": b"".join([(lambda s: (numpy.save(s, numpy.zeros(3)), s.getvalue())[1])(io.BytesIO())])[
        :-1
    ],
}


@pytest.mark.parametrize("kind", NOTHING_KNOWN)
def test_what_is_called_as_weights_and_is_nothing_known(kind):
    for name in ("weights.pt", "data.bin", "x.npy", "x.pkl", "MODEL.CKPT"):
        (problem,) = scan(NOTHING_KNOWN[kind], name)
        assert "cannot be read to its end as anything known" in problem
        assert "--allow-pickle" in problem
    assert scan(NOTHING_KNOWN[kind], "x.whatever") == []
    (problem,) = checkpoints.scan(io.BytesIO(NOTHING_KNOWN[kind]), "x.whatever", weights=True)
    assert "anything known" in problem


HOSTILE = {
    "zip": checkpoint(attack()),
    "torch.save": saved({"w": torch.ones(1), "x": Attack()}),
    "legacy": saved([Attack()], _use_new_zipfile_serialization=False),
    "renamed in the zip": checkpoint(attack(), "weights.txt"),
    "protocol 0 under another name in the zip": checkpoint(attack(0), "data.pkl"),
    "pickle": attack(4),
    "protocol 0": attack(0),
    "appended to a good one": pickle.dumps(1) + attack(),
    "gzip": gzip.compress(attack()),
    "two gzip members": gzip.compress(pickle.dumps(1)) + gzip.compress(attack()),
    "tar": tar_of(attack(0)),
    "tar.gz": tar_of(attack(), mode="w:gz"),
    "npy": array_of_objects(Attack()),
    "npz": zip_of(Member(b"a.npy", array_of_objects(Attack()))),
    "zip in zip": zip_of(Member(b"inner.zip", checkpoint(attack()))),
    "deflated": zip_of(Member(b"w/data.pkl", attack(), method=8)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(kind):
    problems = scan(HOSTILE[kind])
    assert problems
    assert f"would run code when it is loaded: it imports {os.name}.mkdir" in problems[0]
    assert any(f"{os.name}.mkdir is known from attacks" in problem for problem in problems)


def test_a_class_is_named():
    (problem,) = scan(saved(Unknown()))
    assert problem.startswith("holds 'archive/data.pkl', which would run code when it is loaded: it imports ")
    assert "Unknown" in problem
    assert "known from attacks" not in problem
    (problem,) = scan(
        saved(torch.nn.Sequential(Net(), torch.nn.ReLU(), torch.nn.Tanh(), torch.nn.GELU(), torch.nn.ELU()))
    )
    assert "and 2 more" in problem or "and 1 more" in problem or "and 3 more" in problem


def test_what_picklescan_knows_comes_first():
    data = pickle.dumps([Unknown(), Attack()])
    (problem,) = scan(data)
    assert f"imports {os.name}.mkdir, " in problem


def test_an_import_that_is_not_named():
    assert scan(b"\x80\x04K\x01\x8c\x06system\x93.") == [
        "would run code when it is loaded: it imports what it does not name"
    ]


@pytest.mark.parametrize("name", ["script.py", "notes.txt", "labels.csv"])
def test_other_files_are_not_taken_for_pickles(name):
    assert scan(attack(0), name) == []
    assert scan(attack(2), name)  # the mark of a pickle counts, whatever the name


def test_what_cannot_be_read_is_refused():
    good = bytearray(checkpoint(attack()))
    for what, data in {
        "cut": bytes(good[:-10]),
        "encrypted": bytes(good).replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"),
        "gzip": gzip.compress(attack())[:-4],
        "tar": tar_of(attack())[:600],
    }.items():
        assert any("nobody knows what it runs" in problem or "would run code" in problem for problem in scan(data)), (
            what
        )


def test_a_zip_that_readers_disagree_on_is_refused():
    """torch's reader finds another directory than Python's, or other members."""
    data = zip_of(Member(b"w/data.pkl", pickle.dumps(1)), before=b"PK\3\4" + bytes(26))
    assert any("readers disagree on" in problem for problem in scan(data))
    assert any("readers disagree on" in problem for problem in scan(data, "x.zip"))
    assert scan(zip_of(Member(b"a.txt", b"1"), before=b"PK\3\4" + bytes(26)), "x.zip") == []


def test_a_damaged_file_that_nobody_loads_as_weights():
    assert scan(checkpoint(attack())[:-10], "data.zip") == []
    assert scan(gzip.compress(b"text")[:-4], "data.txt.gz") == []


def test_members_that_lie_over_each_other():
    first = Member(b"a", b"x" * 3000)
    others = (Member(b"b", b"", central={"packed": 3000, "size": 3000, "offset": 0}) for _ in range(9))
    assert scan(zip_of(first, *others), "data.zip") == ["is a zip whose members lie over each other"]


@pytest.mark.parametrize("name", [b"serialized_state_dict.json", b"serialized_constants.json"])
def test_pickles_of_an_older_torch_export_are_called_json(name):
    members = (Member(b"serialized_exported_program.json", b"{}"), Member(b"version", b"8.1"))
    hostile = scan(zip_of(*members, Member(name, attack(0))), "m.pt2")
    assert [problem for problem in hostile if name.decode() in problem and "would run code" in problem]
    assert scan(zip_of(*members, Member(name, b""))) == []


def test_archives_in_archives_have_an_end():
    data = checkpoint(pickle.dumps(1))
    for _ in range(2):
        data = zip_of(Member(b"inner.zip", data))
    assert scan(data) == []
    data = zip_of(Member(b"inner.zip", data))
    (problem,) = scan(data)
    assert "holds archives in archives, more than 3 deep" in problem


def test_bombs(monkeypatch):
    from archive_tool.reading import containers

    monkeypatch.setattr(containers, "RATIO_FROM", 100_000)
    monkeypatch.setattr(containers, "MAX_RATIO", 100)
    zeros = bytes(1_000_000)
    assert "would grow" in scan(zip_of(Member(b"w/data.pkl", zeros, method=8)))[0]
    assert "would grow" in scan(gzip.compress(zeros))[0]
    monkeypatch.setattr(checkpoints, "MAX_MEMBERS", 1)
    assert "more than 1 members" in scan(zip_of(Member(b"a", b""), Member(b"b", b"")))[0]
    two = io.BytesIO()
    with tarfile.open(fileobj=two, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
        archive.addfile(tarfile.TarInfo("b"))
    assert "more than 1 members" in scan(two.getvalue())[0]


def test_a_pickle_that_is_too_long(monkeypatch):
    monkeypatch.setattr(budget, "MAX_INSTRUCTIONS", 50)
    assert scan(pickle.dumps(list(range(100)))) == ["is a pickle that is too long to be looked through"]


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data in HOSTILE.values():
        scan(data)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(HOSTILE)), st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6))
def test_mutated_files_are_judged(kind, changes):
    """Whatever the bytes, there is an answer and no exception."""
    data = bytearray(HOSTILE[kind])
    for position, value in changes:
        data[position % len(data)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scan(bytes(data))


def test_the_whole_zip_is_not_read():
    """A checkpoint of gigabytes is judged by its pickles."""

    class Counting(io.BytesIO):
        total = 0

        def read(self, size=-1, /):
            data = super().read(size)
            self.total += len(data)
            return data

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({"a": 1}))
        for number in range(10):
            archive.writestr(f"w/data/{number}", bytes(1_000_000))
    counting = Counting(stream.getvalue())
    assert list(checkpoints.scan(counting, "w.pt")) == []
    assert counting.total < 300_000
