import ast
import sys
from pathlib import Path

import pytest
import torch

import model_defs.mnist
from model_defs.mnist import MNISTNet


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MNISTNet().eval()


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_log_probabilities_for_each_image(model, batch):
    with torch.no_grad():
        output = model(torch.randn(batch, 1, 28, 28))
    assert output.shape == (batch, 10)
    assert output.dtype == torch.float32
    assert torch.allclose(output.exp().sum(dim=1), torch.ones(batch))


def test_an_image_is_answered_alike_alone_and_in_a_batch(model):
    images = torch.randn(4, 1, 28, 28)
    with torch.no_grad():
        together, alone = model(images), torch.cat([model(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


def test_scripted_traced_and_exported_it_gives_the_same(model):
    images = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        expected = model(images)
        assert torch.allclose(torch.jit.script(model)(images), expected, atol=1e-6)
        assert torch.allclose(torch.jit.trace(model, images)(images), expected, atol=1e-6)
        assert torch.allclose(torch.export.export(model, (images,)).module()(images), expected, atol=1e-6)


def test_the_layers_are_named_as_in_the_tutorials(model):
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == {
        "conv1.weight": (32, 1, 3, 3),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 3, 3),
        "conv2.bias": (64,),
        "fc1.weight": (128, 9216),
        "fc1.bias": (128,),
        "fc2.weight": (10, 128),
        "fc2.bias": (10,),
    }


def test_gradients_reach_every_parameter():
    model = MNISTNet().train()
    torch.nn.functional.nll_loss(model(torch.randn(3, 1, 28, 28)), torch.tensor([1, 2, 3])).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_every_definition_needs_only_the_standard_library_and_torch():
    for path in Path(model_defs.mnist.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                assert name.partition(".")[0] in {"torch", *sys.stdlib_module_names}, f"{path.name} imports {name}"
