import pytest
import torch

from handlers.optimization.torch_compile import compile_model, is_compiler_error


def test_the_model_is_compiled():
    model = torch.nn.Linear(2, 2)
    compiled = compile_model(model, {"pt2": "eager"})
    assert compiled is not model
    inputs = torch.ones(1, 2)
    assert torch.equal(compiled(inputs), model(inputs))


def test_without_a_section_the_model_stays_as_it_is():
    model = torch.nn.Linear(2, 2)
    assert compile_model(model, {}) is model


def test_an_unknown_backend_leaves_the_eager_model(caplog):
    model = torch.nn.Linear(2, 2)
    assert compile_model(model, {"pt2": "no_such_backend"}) is model
    assert "no_such_backend" in caplog.text


def test_what_is_compiled_already_is_left_alone(caplog):
    class Package:
        summary = "AOTInductor package for cpu"

        def __call__(self, x):
            return x

    for model, kind in [
        (Package(), "AOTInductor package for cpu"),
        (torch.jit.script(torch.nn.Linear(2, 2)), "TorchScript"),
    ]:
        assert compile_model(model, {"pt2": "eager"}) is model
        told = f"pt2 in model-config.yaml has no effect on this model ({kind}): it is compiled already"
        assert caplog.messages[-1] == told
        assert compile_model(model, {}) is model
    assert len(caplog.messages) == 2


def test_the_compilers_own_errors_are_told_from_the_models():
    def broken(*_):
        raise ValueError("the backend is broken")

    with pytest.raises(Exception, match="the backend is broken") as caught:
        torch.compile(torch.nn.Linear(2, 2), backend=broken)(torch.ones(1, 2))
    assert is_compiler_error(caught.value)
    assert not is_compiler_error(ValueError("mine"))
