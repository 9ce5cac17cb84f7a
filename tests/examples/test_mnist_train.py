from pathlib import Path

import pytest
import torch
from torch.nn import functional

from examples.mnist import train as training
from examples.mnist.data import Digits, Split, load_digits, normalise
from model_defs.mnist import MNISTNet

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLE = Path(training.__file__).parent


@pytest.fixture(scope="module")
def digits():
    """Return all digits to train with, and every fourth to measure with."""
    train, test = load_digits()
    return Digits(train, Split(test.images[::4], test.labels[::4]))


@pytest.fixture(scope="module")
def few(digits):
    """Return every twentieth digit to train with."""
    return Split(digits.train.images[::20], digits.train.labels[::20])


@pytest.fixture(scope="module")
def folder(few, digits, tmp_path_factory):
    """Return what a short training writes."""
    folder = tmp_path_factory.mktemp("mnist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "load_digits", lambda: Digits(few, digits.test))
        training.main(["--epochs", "2", "--output-dir", str(folder)])
    return folder


def test_the_files_of_an_archive_are_written(folder):
    assert {path.name for path in folder.iterdir()} == {
        "mnist_sd.pt",
        "mnist_script.pt",
        "mnist_model.py",
        "mnist_handler.py",
        "mnist_handler_ts.py",
    }
    assert (folder / "mnist_handler.py").read_text() == (EXAMPLE / "mnist_handler.py").read_text()
    assert "class MNISTNet" in (folder / "mnist_model.py").read_text()


def test_both_files_hold_the_same_weights_and_know_digits(folder, digits):
    eager = MNISTNet().eval()
    eager.load_state_dict(torch.load(folder / "mnist_sd.pt", weights_only=True))
    scripted = torch.jit.load(folder / "mnist_script.pt")
    images = normalise(digits.test.images)
    with torch.no_grad():
        assert torch.allclose(eager(images), scripted(images), atol=1e-5)
    assert training.measure(eager, digits.test) > 0.6
    assert not scripted.training


def test_equal_seeds_give_equal_weights(few):
    tiny = Split(few.images[:200], few.labels[:200])
    first, again, other = (training.train(tiny, epochs=1, seed=seed).fc2.weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("accuracy", "code"), [(0.9699, 1), (0.97, 0)])
def test_too_low_an_accuracy_is_a_failure(monkeypatch, tmp_path, capsys, accuracy, code):
    monkeypatch.setattr(training, "train", lambda *_, **__: MNISTNet().eval())
    monkeypatch.setattr(training, "measure", lambda *_: accuracy)
    assert training.main(["--output-dir", str(tmp_path)]) == code
    assert ("below 97%" in capsys.readouterr().err) is bool(code)


def test_a_failed_download_is_one_clear_message(monkeypatch, tmp_path, capsys):
    def fail(folder):
        assert folder == tmp_path / "data"
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(training, "download_digits", fail)
    assert training.main(["--data", "torchvision", "--output-dir", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "torchvision digits cannot be read" in message
    assert "train-images" in message


def test_the_options_are_told(capsys):
    """That the script runs by its path is tested by the demo."""
    with pytest.raises(SystemExit) as ended:
        training.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--epochs", "--seed", "--data", "--output-dir"):
        assert option in shown


def test_no_training_at_all_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        training.main(["--epochs", "0"])
    assert ended.value.code == 2
    assert "at least 1" in capsys.readouterr().err


def test_images_are_moved_over_background():
    images = functional.pad(torch.ones(2, 1, 24, 24), (2, 2, 2, 2), value=-1.0)
    torch.manual_seed(0)
    for _ in range(20):
        moved = training.shift(images)
        assert moved.shape == images.shape
        assert moved.sum() == images.sum()
