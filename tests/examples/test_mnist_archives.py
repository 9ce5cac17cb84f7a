import json
import zipfile

import pytest
import torch

from archive_tool.verification.verify import verify
from examples.mnist import build_archives
from model_defs.mnist import MNISTNet


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    model = MNISTNet().eval()
    torch.save(model.state_dict(), folder / "mnist_sd.pt")
    torch.jit.script(model).save(str(folder / "mnist_script.pt"))
    return folder


def test_both_archives_are_built_and_hold_the_sdk(weights, tmp_path, capsys):
    store = tmp_path / "store"
    assert build_archives.main(["--weights-dir", str(weights), "--model-store", str(store)]) == 0
    assert "mnist_scripted.mar" in capsys.readouterr().out
    for name, model_file in (("mnist", "mnist.py"), ("mnist_scripted", None)):
        assert verify(store / f"{name}.mar").issues == ()
        with zipfile.ZipFile(store / f"{name}.mar") as archive:
            model = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]
            assert (model["modelName"], model["modelVersion"], model.get("modelFile")) == (name, "1.0", model_file)
            assert {"mnist_handler.py", "handlers/base.py", model["serializedFile"]} <= set(archive.namelist())


def test_without_weights_it_says_what_to_do(tmp_path, capsys):
    assert build_archives.main(["--weights-dir", str(tmp_path), "--model-store", str(tmp_path)]) == 1
    assert "train.py first" in capsys.readouterr().err
