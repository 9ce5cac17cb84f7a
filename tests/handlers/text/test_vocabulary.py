import copy
from collections import OrderedDict

import pytest
import torch

from handlers import LoadError
from handlers.text.vocabulary import Vocabulary, read_vocabulary


class Hashed:
    """Numbers for all words but one, as torchtext's vocabulary without a default."""

    def __getitem__(self, word):
        if word in ("unheard", "<unk>", "[UNK]"):
            raise RuntimeError("Token unheard not found and default index is not set")
        return len(word)


@pytest.mark.parametrize("table", [{"a": 0, "b": 1}, OrderedDict(a=0, b=1), ["a", "b"], ("a", "b")])
def test_forms(tmp_path, table):
    torch.save(table, tmp_path / "source_vocab.pt")
    assert read_vocabulary(tmp_path / "source_vocab.pt").numbers(["b", "a", "z"]) == [1, 0]


@pytest.mark.parametrize("unknown", ["<unk>", "[UNK]"])
def test_unknown_words_have_a_number_if_the_vocabulary_has_one_for_them(unknown):
    assert Vocabulary({"a": 3, unknown: 7}).numbers(["z", "a"]) == [7, 3]
    assert Vocabulary([unknown, "a"]).numbers(["z", "a"]) == [0, 1]


def test_other_objects_only_if_the_configuration_trusts_them(tmp_path):
    path = tmp_path / "source_vocab.pt"
    torch.save(Hashed(), path)
    with pytest.raises(LoadError, match="could run code") as raised:
        read_vocabulary(path)
    assert "weights_only: false" in str(raised.value)
    assert read_vocabulary(path, weights_only=False).numbers(["abc", "unheard", "ab"]) == [3, 2]


@pytest.mark.parametrize("table", [5, {"a": "b"}, {1: 2}, [1, 2], torch.ones(2)])
def test_what_is_no_vocabulary(tmp_path, table):
    torch.save(table, tmp_path / "source_vocab.pt")
    with pytest.raises(LoadError, match="gives no numbers for words"):
        read_vocabulary(tmp_path / "source_vocab.pt")


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02}q\x00"])
def test_a_damaged_file(tmp_path, content):
    (tmp_path / "source_vocab.pt").write_bytes(content)
    with pytest.raises(LoadError, match=r"source_vocab\.pt cannot be read"):
        read_vocabulary(tmp_path / "source_vocab.pt")


def test_no_file(tmp_path):
    with pytest.raises(LoadError, match="no vocabulary at"):
        read_vocabulary(tmp_path / "none.pt")


def test_handlers_of_torchserve_look_words_up_in_it():
    found = Vocabulary({"a": 3, "b": 4})
    assert (found["a"], found.get("z", 9), len(found), "b" in found, "z" in found) == (3, 9, 2, True, False)
    assert list(found.keys()) == ["a", "b"]
    with pytest.raises(KeyError):
        found["z"]
    assert Vocabulary({"<unk>": 7})["z"] == 7
    assert copy.copy(found)["b"] == 4
