import pytest
import torch

from handlers import LoadError
from handlers.device import pick_device, stack_on, synchronize, to_device


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


def test_inputs_are_moved(no_gpu):
    cpu = torch.device("cpu")
    one = torch.ones(2)
    assert to_device(one, cpu) is one
    assert to_device(one, None) is one
    assert torch.equal(stack_on([one, 2 * one], cpu), torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    assert stack_on([one, one.double()], None).dtype == torch.float64
    assert to_device(one, torch.device("meta")).is_meta


def test_whatever_can_be_moved_is_moved(no_gpu):
    class Batch:
        def to(self, device):
            return device

    assert to_device(Batch(), torch.device("cuda:0")) == torch.device("cuda:0")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_inputs_go_to_the_gpu_from_pinned_memory():
    gpu = torch.device("cuda:0")
    one = torch.rand(2, 3)
    for moved in (to_device(one, gpu), stack_on([one], gpu)[0], to_device(one.to(gpu), gpu)):
        assert moved.device == gpu
        assert torch.equal(moved.cpu(), one)
    assert stack_on([one, one.double()], gpu).dtype == torch.float64
    assert stack_on([one.to(gpu)], gpu).device == gpu
