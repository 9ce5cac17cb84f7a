"""Folders of sentence-transformers."""

import pytest

from archive_tool.errors import BuildError
from archive_tool.pretrained.sentences import Modules, read

from .conftest import write


def module(kind, path):
    return {"idx": 0, "name": "0", "path": path, "type": f"sentence_transformers.models.{kind}"}


def test_modules_in_their_order(tmp_path):
    assert read(tmp_path) is None
    listed = [module("Transformer", ""), module("Pooling", "1_Pooling"), module("Normalize", "2_Normalize")]
    write(tmp_path, {"modules.json": listed})
    assert read(tmp_path) == Modules("", ("1_Pooling", "2_Normalize"))
    write(tmp_path, {"modules.json": [module("Transformer", "0_Transformer"), module("Dense", "1_Dense")]})
    assert read(tmp_path) == Modules("0_Transformer", ("1_Dense",))


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ({}, "lists no modules"),
        ([], "lists no modules"),
        ([1], "without a type"),
        ([module("Transformer", "../x")], "out of the folder"),
        ([module("Pooling", "")], "Pooling of sentence-transformers are not served"),
        ([module("Transformer", ""), module("LSTM", "1_LSTM")], "Transformer, LSTM"),
        ([module("Transformer", ""), module("Transformer", "1")], "are not served"),
        ([{}] * 101, "lists no modules"),
    ],
)
def test_what_is_not_served(tmp_path, listed, said):
    write(tmp_path, {"modules.json": listed})
    with pytest.raises(BuildError, match=said):
        read(tmp_path)


def test_models_that_compare_token_by_token_are_not_served(tmp_path):
    """Without a pooling, they would be taken for others."""
    listed = [module("Transformer", ""), module("Dense", "1_Dense")]
    write(tmp_path, {"modules.json": listed, "1_Dense/config.json": {"module_input_name": "token_embeddings"}})
    with pytest.raises(BuildError, match="Dense of sentence-transformers reads 'token_embeddings'"):
        read(tmp_path)
