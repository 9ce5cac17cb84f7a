import inspect
import pickle

import pytest
import torch

from handlers import errors
from handlers.errors import BadInputError, is_out_of_memory
from serving.worker.loading import failures


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.RequestError, 400),
        (errors.BadInputError, 400),
        (errors.NotAcceptableError, 406),
        (errors.TooLargeError, 413),
        (errors.UnsupportedMediaError, 415),
        (errors.NotSupportedError, 501),
    ],
)
def test_each_class_owns_its_status(kind, status):
    assert kind("why").status == status
    assert str(kind("why")) == "why"
    assert kind("why", status=418).status == 418
    assert kind.status == status


def test_a_request_error_survives_pickling():
    again = pickle.loads(pickle.dumps(errors.BadInputError("why", status=422)))
    assert (again.message, again.status) == ("why", 422)


def test_a_load_error_gives_its_hint_with_its_text():
    error = errors.LoadError("it failed", hint="do this")
    assert str(error) == "it failed\nHint: do this"
    assert str(errors.LoadError("it failed")) == "it failed"
    assert isinstance(error, RuntimeError)


def test_the_docstring_draws_every_class():
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, Exception):
            assert name in errors.__doc__


class Mute(RuntimeError):
    def __str__(self):
        raise ValueError("no text")


class OnAnotherDevice(torch.OutOfMemoryError):
    pass


#: The worker has the same rule, for archives whose SDK is another one.
MEMORY = [
    (MemoryError(), True),
    (torch.OutOfMemoryError("no room"), True),
    (OnAnotherDevice("HIP out of memory"), True),
    (RuntimeError("CUDA error: device-side assert"), True),
    (RuntimeError("cuda"), False),
    (RuntimeError("shapes differ"), False),
    (ValueError("CUDA"), False),
    (BadInputError("CUDA is not a digit"), False),
    (Mute(), False),
]


@pytest.mark.parametrize(("error", "expected"), MEMORY)
@pytest.mark.parametrize("rule", [is_out_of_memory, failures.is_out_of_memory])
def test_lack_of_memory(rule, error, expected):
    assert rule(error) is expected
