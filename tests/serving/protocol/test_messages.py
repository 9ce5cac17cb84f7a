from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from serving.protocol import ATTEMPT, DEADLINE, Inference, Load, Parameter, PredictionItem, Reply, Request, header_of

MESSAGES = [
    Load("m", "/p"),
    Inference(),
    Request("1"),
    Parameter("body", bytearray()),
    PredictionItem("1", b""),
    Reply(200, ""),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_a_value(message: object) -> None:
    field = type(message).__slots__[0]
    with pytest.raises(FrozenInstanceError):
        setattr(message, field, "other")
    with pytest.raises((AttributeError, TypeError)):
        message.unknown = 1  # type: ignore[attr-defined]


def test_the_defaults_are_those_of_a_plain_model_and_a_plain_answer() -> None:
    assert Load("m", "/p") == Load("m", "/p", 1, None, None, None, True)
    assert PredictionItem("1", b"x") == PredictionItem("1", b"x", 200, "", "", {})
    assert Request("1").headers is not Request("1").headers


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, True),
        ({DEADLINE: "1.5"}, True),
        ({DEADLINE: "1.5", ATTEMPT: "2"}, True),
        ({"host": "x"}, False),
        ({"host": "x", DEADLINE: "1.5"}, False),
        ({"describe": "True"}, False),
    ],
)
def test_grpc_is_told_by_headers_that_are_not_there(headers: dict[str, str], expected: bool) -> None:
    assert Request("1", headers).is_grpc is expected


def test_a_header_is_found_however_it_is_written() -> None:
    headers = {"Host": "here", "X-User": "7", "x-empty": ""}
    assert [header_of(headers, name) for name in ("x-user", "X-USER", "x-empty", "x-none")] == ["7", "7", "", ""]
