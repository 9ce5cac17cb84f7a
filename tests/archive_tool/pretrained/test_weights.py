"""The weights of a folder: whole, in shards, missing, cut, or more than tensors."""

import os
import pickle
import zipfile

import pytest
import torch

from archive_tool.pretrained import weights

from .conftest import safetensors, write


def find(folder):
    problems = []
    return weights.find(folder, problems), [str(one) for one in problems]


def test_safetensors_come_first(tmp_path):
    write(tmp_path, {"model.safetensors": safetensors(), "pytorch_model.bin": b"?"})
    assert find(tmp_path) == (["model.safetensors"], [])


def test_shards_and_their_index(tmp_path):
    places = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors", "c": "model-1-of-2.safetensors"}
    write(tmp_path, {"model.safetensors.index.json": {"weight_map": places}})
    write(tmp_path, {name: safetensors() for name in places.values()})
    listed = ["model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"]
    assert find(tmp_path) == (listed, [])
    (tmp_path / listed[2]).unlink()
    found, (problem,) = find(tmp_path)
    assert found == listed[:2]
    assert "1 of 2 shards are missing: model-2-of-2.safetensors" in problem


@pytest.mark.parametrize("places", [{}, None, {"a": 1}, {"a": "../x.bin"}, {"a": "/etc/passwd"}])
def test_an_index_names_files_of_its_folder(tmp_path, places):
    write(tmp_path, {"model.safetensors.index.json": {"weight_map": places}})
    found, (problem,) = find(tmp_path)
    assert "the index names" in problem
    assert found in ([], ["model.safetensors.index.json"])


def test_pickles_of_tensors_alone(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    assert find(tmp_path) == (["pytorch_model.bin"], [])


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def test_pickles_of_more_than_tensors(tmp_path):
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": Evil()}, protocol=2))
        archive.writestr("archive/version", "3")
    (problem,) = find(tmp_path)[1]
    assert "system, and could run code" in problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "model.safetensors is empty (write or download the weights again)"),
        (b"no weights at all", "holds no known weights (save the model again"),
        (safetensors()[:-2], "cut short"),
        (safetensors()[:20], "begins as a safetensors file and is damaged or cut short"),
        (b"PK\3\4" + bytes(99), "model.safetensors is damaged or cut short"),
        (b"<!DOCTYPE html>", "is an HTML or XML page (the download failed or needs a login"),
        (b"GGUF\3\0\0\0", "is a GGUF file (save the model again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, said):
    write(tmp_path, {"model.safetensors": content})
    (problem,) = find(tmp_path)[1]
    assert said in problem


def test_nothing_there(tmp_path):
    assert "the weights are missing: model.safetensors or pytorch_model.bin" in find(tmp_path)[1][0]
    write(tmp_path, {"model.fp16.safetensors": safetensors()})
    assert "not in model.safetensors, but in model.fp16.safetensors" in find(tmp_path)[1][0]
    write(tmp_path, {"tf_model.h5": b"x", "q4.gguf": b"x"})
    assert "another framework: q4.gguf, tf_model.h5" in find(tmp_path)[1][0]
    write(tmp_path, {"adapter_config.json": {"base_model_name_or_path": "some/base"}})
    (problem,) = find(tmp_path)[1]
    assert "an adapter of some/base" in problem
    assert "--adapter" in problem


@pytest.mark.parametrize(
    ("shard", "index"),
    [
        ("model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        ("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"),
    ],
)
def test_shards_whose_index_is_missing(tmp_path, shard, index):
    write(tmp_path, {shard: safetensors()})
    assert f"the index of the shards is missing: {index}" in find(tmp_path)[1][0]
