"""Names of element types."""

import contextlib

import pytest
import torch

from archive_tool.weights import dtypes


def test_sizes_are_torchs():
    for name, size in dtypes.ITEM_SIZES.items():
        assert getattr(torch, name).itemsize == size


def test_every_name_has_a_size():
    for table in (dtypes.SAFETENSORS, dtypes.STORAGES, dtypes.EXPORT, dtypes.ONNX):
        assert set(table.values()) <= set(dtypes.ITEM_SIZES)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_storages_are_torchs():
    for stem, name in dtypes.STORAGES.items():
        assert getattr(torch, f"{stem}Storage").dtype is getattr(torch, name)


def test_codes_of_the_export_schema():
    from torch._export.serde.schema import ScalarType
    from torch._export.serde.serialize import _TORCH_TO_SERIALIZE_DTYPE as theirs

    known = {code: getattr(torch, name) for code, name in dtypes.EXPORT.items() if getattr(torch, name) in theirs}
    assert len(known) >= 12  # older versions write fewer
    for code, dtype in known.items():
        assert theirs[dtype] is ScalarType(int(code))


def test_the_names_of_safetensors(tmp_path):
    import json

    from safetensors.torch import save

    found = {}
    for name in dtypes.SAFETENSORS.values():
        with contextlib.suppress(KeyError):  # older versions write fewer
            data = save({"a": torch.zeros(2).to(getattr(torch, name))})
            found[json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["a"]["dtype"]] = name
    assert len(found) >= 12
    assert found.items() <= dtypes.SAFETENSORS.items()
