import pytest
import torch

from handlers import LoadError
from handlers.device import pick_device, synchronize


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.delenv("TS_IPEX_GPU_ENABLE", raising=False)
    return monkeypatch


def test_a_worker_without_gpu_uses_the_cpu(no_gpu):
    no_gpu.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device(None) == torch.device("cpu")


def test_the_workers_gpu_is_used(no_gpu):
    no_gpu.setattr(torch.cuda, "is_available", lambda: True)
    no_gpu.setattr(torch.cuda, "device_count", lambda: 4)
    assert pick_device(3) == torch.device("cuda:3")
    assert pick_device("1") == torch.device("cuda:1")


def test_a_gpu_that_is_not_there_is_told_without_the_word_that_means_out_of_memory(no_gpu):
    no_gpu.setattr(torch.cuda, "is_available", lambda: True)
    no_gpu.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LoadError, match="GPU 7, but 2 are visible") as caught:
        pick_device(7)
    assert "CUDA" not in str(caught.value)


def test_intel_gpus_are_used_if_the_frontend_says_so(no_gpu):
    no_gpu.setattr(torch.xpu, "is_available", lambda: True)
    no_gpu.setattr(torch.xpu, "device_count", lambda: 1)
    assert pick_device(0).type == "cpu"
    no_gpu.setenv("TS_IPEX_GPU_ENABLE", "true")
    assert pick_device(0) == torch.device("xpu:0")


def test_apple_gpus(no_gpu):
    no_gpu.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device(0) == torch.device("mps")


def test_a_gpu_that_torch_cannot_use_is_warned_of(no_gpu, caplog):
    assert pick_device(0) == torch.device("cpu")
    assert "GPU 0" in caplog.text


def test_synchronize_needs_no_gpu():
    synchronize(None)
    synchronize(torch.device("cpu"))
