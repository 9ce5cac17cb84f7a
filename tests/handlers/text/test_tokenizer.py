import sys

import pytest
import torch

from handlers import LoadError
from handlers.text.tokenizer import INPUTS, TextTokenizer, padded


def test_texts_are_padded_to_the_longest(tmp_path, make_tokenizer):
    tokenizer = TextTokenizer(make_tokenizer(tmp_path / "tokenizer.json", "rain stops the final"))
    encodings = [tokenizer.encode(text) for text in ("Rain stops the final", "rain tomorrow")]
    ids, mask, types = tokenizer.tensors(encodings, list(INPUTS))
    assert ids.tolist() == [[2, 4, 5, 6, 7, 3], [2, 4, 1, 3, 0, 0]]
    assert mask.tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0]]
    assert types.tolist() == [[0] * 6] * 2
    assert ids.dtype.is_floating_point is False
    assert [tensor.shape for tensor in tokenizer.tensors(encodings[1:], ["input_ids"])] == [(1, 4)]


def test_rows_of_numbers_are_padded():
    found = padded([[1, 2], [3]], 3, 9)
    assert found.tolist() == [[1, 2, 9], [3, 9, 9]]
    assert found.dtype == torch.int64
    assert padded([[]], 0, 9).shape == (1, 0)


def test_what_the_file_says_of_padding_and_length(tmp_path, make_tokenizer):
    padding = {"pad_id": 7, "pad_token": "final", "length": 5}
    path = make_tokenizer(tmp_path / "tokenizer.json", "rain stops the final", padding=padding, truncation=5)
    tokenizer = TextTokenizer(path)
    encodings = [tokenizer.encode(text) for text in ("rain", "rain " * 9)]
    ids, mask = tokenizer.tensors(encodings, ["input_ids", "attention_mask"])
    assert ids.tolist() == [[2, 4, 3, 7, 7], [2, 4, 4, 4, 3]]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1] * 5]


def test_a_length_of_ones_own(tmp_path, make_tokenizer):
    path = make_tokenizer(tmp_path / "tokenizer.json", "rain")
    assert len(TextTokenizer(path).encode("rain " * 9).ids) == 11
    assert len(TextTokenizer(path, 4).encode("rain " * 9).ids) == 4


def test_a_file_that_is_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(LoadError, match="is no tokenizer"):
        TextTokenizer(tmp_path / "tokenizer.json")


def test_without_the_package(tmp_path, make_tokenizer, monkeypatch):
    path = make_tokenizer(tmp_path / "tokenizer.json", "rain")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(LoadError, match=r"torchmar\[text\]"):
        TextTokenizer(path)
