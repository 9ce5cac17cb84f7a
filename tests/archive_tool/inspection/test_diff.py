"""The differences of two archives: members, lines, tensors."""

import io
import math
import pickle
import warnings

import pytest
import torch
from safetensors.torch import save

from archive_tool.errors import UnreadableArchiveError, UnsafeArchiveError
from archive_tool.inspection import diff as module
from archive_tool.inspection.diff import diff
from tests.archive_tool.hostile import Attack, Member, archive


def saved(value, **how):
    stream = io.BytesIO()
    torch.save(value, stream, **how)
    return stream.getvalue()


@pytest.fixture
def compare(tmp_path):
    """Compare two archives made of these members."""

    def run(first, second):
        paths = []
        for name, members in (("a.mar", first), ("b.mar", second)):
            path = tmp_path / name
            path.write_bytes(archive(*(Member(key.encode(), data) for key, data in members.items())))
            paths.append(path)
        return diff(*paths)

    return run


def tensors(compare, before, after, name="w.pt", save=saved):
    (change,) = compare({name: save(before)}, {name: save(after)}).members
    assert change.note is None, change.note
    return {change.name: (change.before, change.after, change.largest) for change in change.tensors}


def test_the_same(compare):
    changes = compare({"a": b"1"}, {"a": b"1"})
    assert not changes
    assert changes.to_dict()["same"] is True


def test_added_removed_and_changed_members(compare):
    changes = compare({"a": b"1\0", "gone": b"22", "same": b"3"}, {"a": b"4\0\0", "new": b"555", "same": b"3"})
    found = [(change.name, change.status, change.before, change.after) for change in changes.members]
    assert found == [("a", "changed", 2, 3), ("gone", "removed", 2, None), ("new", "added", None, 3)]
    assert bool(changes)


def test_lines_of_text(compare):
    (change,) = compare({"a.py": b"x = 1\ny = 2\n"}, {"a.py": b"x = 1\ny = 3\n"}).members
    assert change.text == ("@@ -1,2 +1,2 @@", " x = 1", "-y = 2", "+y = 3")
    assert change.tensors is None


def test_text_that_is_not_shown(compare, monkeypatch):
    (change,) = compare({"a": b"x\n"}, {"a": b"x\r\n"}).members
    assert change.note == "the same lines, with other ends"
    monkeypatch.setattr(module, "_LINES_LIMIT", 2)
    (change,) = compare({"a": b"x\n" * 3}, {"a": b"y\n"}).members
    assert change.text == ()
    assert "more than 2 lines" in change.note
    monkeypatch.setattr(module, "_TEXT_LIMIT", 2)
    (change,) = compare({"a": b"xxx"}, {"a": b"yyy"}).members
    assert change.text == ()


SAVERS = {
    "w.pt": saved,
    "w.pth": lambda value: saved(value, _use_new_zipfile_serialization=False),
    "w.safetensors": save,
}


@pytest.mark.parametrize("name", SAVERS)
def test_tensors(compare, name):
    before = {"fc.w": torch.zeros(2, 3), "fc.b": torch.zeros(2), "gone": torch.ones(1), "same": torch.arange(5)}
    after = {"fc.w": torch.tensor([[0, 0, 0], [0, -0.5, 0.25]]), "fc.b": torch.zeros(3), "new": torch.ones(1).half()}
    after["same"] = torch.arange(5)
    assert tensors(compare, before, after, name, SAVERS[name]) == {
        "fc.w": ("float32 [2, 3]", "float32 [2, 3]", 0.5),
        "fc.b": ("float32 [2]", "float32 [3]", None),
        "gone": ("float32 [1]", None, None),
        "new": (None, "float16 [1]", None),
    }


def test_types_of_numbers(compare):
    before = {
        "dtype": torch.ones(2),
        "rounded": torch.tensor([0.1]),
        "complex": torch.tensor([3 + 4j]),
        "bool": torch.tensor([True]),
        "f8": torch.ones(1).to(torch.float8_e4m3fn),
        "nan": torch.tensor([math.nan, 1.0]),
        "nan to number": torch.tensor([math.nan]),
        "inf": torch.tensor([math.inf, 1]),
        "large": torch.tensor([2**60]),
        "empty": torch.ones(0),
    }
    after = {
        "dtype": torch.ones(2, dtype=torch.float64),
        "rounded": torch.tensor([0.1]).half(),
        "complex": torch.tensor([0j]),
        "bool": torch.tensor([False]),
        "f8": torch.zeros(1).to(torch.float8_e4m3fn),
        "nan": torch.tensor([math.nan, 3.0]),
        "nan to number": torch.tensor([1.0]),
        "inf": torch.tensor([math.inf, 2]),
        "large": torch.tensor([2**60 + 1]),
        "empty": torch.ones(0),
    }
    largest = {name: change[2] for name, change in tensors(compare, before, after).items()}
    assert largest.pop("rounded") == pytest.approx(2.44e-5, rel=0.01)
    assert largest == {
        "dtype": 0.0,
        "complex": 5.0,
        "bool": 1.0,
        "f8": 1.0,
        "nan": 2.0,
        "nan to number": math.inf,
        "inf": 1.0,
        "large": 0.0,
    }


def test_integers_that_floats_cannot_tell_apart_are_changed(compare):
    found = tensors(compare, {"a": torch.tensor([2**60])}, {"a": torch.tensor([2**60 + 1])})
    assert found == {"a": ("int64 [1]", "int64 [1]", 0.0)}


def test_tensors_are_compared_in_pieces(compare, monkeypatch):
    from archive_tool.inspection import tensor_diff

    monkeypatch.setattr(tensor_diff, "_CHUNK", 7)
    before, after = torch.zeros(10, 10), torch.zeros(10, 10)
    after[9, 9], after[0, 0] = 1, 3
    assert tensors(compare, {"a": before}, {"a": after}) == {"a": ("float32 [10, 10]", "float32 [10, 10]", 3.0)}


def test_a_tensor_that_claims_to_be_huge_is_not_gone_through(compare, monkeypatch):
    from archive_tool.inspection import tensor_diff

    monkeypatch.setattr(tensor_diff, "_LARGE", 1000)
    found = tensors(compare, {"a": torch.zeros(1).expand(10**6)}, {"a": torch.ones(1).expand(10**6)})
    assert found == {"a": ("float32 [1000000]", "float32 [1000000]", None)}


def test_tensors_of_other_kinds(compare):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ones, zeros = (torch.quantize_per_tensor(make(2), 0.1, 0, torch.qint8) for make in (torch.ones, torch.zeros))
        before = {"sparse": torch.eye(3).to_sparse(), "q": ones}
        after = {"sparse": torch.eye(3).to_sparse() * 2, "q": zeros}
        found = tensors(compare, before, after)
    assert found["sparse"][2] is None
    assert found["q"][2] == pytest.approx(1.0)


def test_other_values_and_nesting(compare):
    before = {"model": {"w": torch.ones(1)}, "epoch": 3, "list": [1, torch.zeros(1)], "text": "x" * 100, "same": [1]}
    after = {"model": {"w": torch.zeros(1)}, "epoch": 4, "list": [1, torch.ones(1)], "text": "y" * 100, "same": [1]}
    found = tensors(compare, before, after)
    assert set(found) == {"model.w", "epoch", "list.1", "text"}
    assert found["epoch"] == ("3", "4", None)
    assert found["text"][0].endswith("...")


def test_the_same_tensors_written_differently(compare):
    state = {"a": torch.ones(3)}
    (change,) = compare({"w.pt": saved(state)}, {"w.pt": saved(state, _use_new_zipfile_serialization=False)}).members
    assert change.tensors == ()
    assert change.note == "the same tensors, written differently"


class Net(torch.nn.Module):
    def forward(self, x):
        return x


def scripted():
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Net()), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (saved({"x": Attack()}), "would run code"),
        (saved(Net()), "would run code"),
        (pickle.dumps(Attack()), "would run code"),
        (scripted(), "weights_only=True"),
        (b"noise", "anything known"),
        (b"", "weights_only=True"),
        (b"PK\3\4" + bytes(100), "cannot be read"),
    ],
)
def test_weights_that_are_no_data_are_not_loaded(compare, data, note, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (change,) = compare({"w.pt": saved({"a": torch.ones(1)})}, {"w.pt": data}).members
    assert change.tensors is None
    assert note in change.note
    assert not (tmp_path / "pwned").exists()


def test_broken_safetensors(compare):
    whole = save({"a": torch.ones(10)})
    (change,) = compare({"w.safetensors": whole}, {"w.safetensors": whole[:-8]}).members
    assert change.tensors is None
    assert "not compared" in change.note


def test_archives_of_two_formats(tmp_path, make_tar):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "h.py").write_text("x = 1\n")
    packed = make_tar([("m/h.py", b"x = 2\n")])
    (change,) = diff(tmp_path / "m", packed).members
    assert change.text == ("@@ -1 +1 @@", "-x = 1", "+x = 2")


def test_what_cannot_be_compared(tmp_path):
    (tmp_path / "a.mar").write_bytes(archive(Member(b"a", b"1")))
    (tmp_path / "b.mar").write_bytes(archive(Member(b"../a", b"1")))
    with pytest.raises(UnreadableArchiveError):
        diff(tmp_path / "a.mar", tmp_path / "c.mar")
    with pytest.raises(UnsafeArchiveError):
        diff(tmp_path / "a.mar", tmp_path / "b.mar")
