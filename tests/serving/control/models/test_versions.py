from __future__ import annotations

from dataclasses import replace

import pytest

from serving.client import ModelVersion
from serving.control.models.versions import newest, with_defaults
from tests.serving.control.following.test_waiting import version


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (["1.0", "10.0", "2.0"], "10.0"),
        (["2.0", "2.0rc1"], "2.0"),
        (["of-today", "1.0"], "1.0"),
        (["blue", "green"], "green"),
    ],
)
def test_the_newest(versions: list[str], expected: str) -> None:
    assert newest(versions) == newest(versions[::-1]) == expected


class Frontend:
    """A stand-in for the management API: its first version of each model is the default one until another is chosen."""

    def __init__(self, models: list[ModelVersion]) -> None:
        self.models = models
        self.chosen: list[tuple[str, str]] = []

    def set_default(self, name: str, number: str) -> None:
        self.chosen.append((name, number))
        self.models = [
            replace(model, default=model.version == number) if model.name == name else model for model in self.models
        ]

    def describe(self, name: str) -> list[ModelVersion]:
        return [model for model in self.models if model.name == name]


MODELS = [
    replace(version("a", number="1.0"), default=True),
    version("a", number="3.0"),
    replace(version("b"), default=True),
    version("a", number="2.0"),
]


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ("", "3.0"),
        ('{"a": {"2.0": {"defaultVersion": true}, "3.0": {"defaultVersion": false}}}', "2.0"),
        ('{"a": {"1.0": {"defaultVersion": true}}}', "1.0"),
        ('{"a": {"9.0": {"defaultVersion": true}}}', "3.0"),
    ],
)
def test_the_newest_version_is_the_default_unless_the_configuration_says_which(models: str, expected: str) -> None:
    frontend = Frontend(MODELS)
    found = with_defaults(frontend, MODELS, {"models": models})  # type: ignore[arg-type]
    assert frontend.chosen == ([("a", expected)] if expected != "1.0" else [])
    assert {model.name: model.version for model in found if model.default} == {"a": expected, "b": "1.0"}
    assert [model.name for model in found] == ["a", "a", "a", "b"]


def test_a_cluster_has_the_default_versions_that_it_had_unless_the_configuration_says_which() -> None:
    for models, chosen in (("", []), ('{"a": {"2.0": {"defaultVersion": true}}}', [("a", "2.0")])):
        frontend = Frontend(MODELS)
        with_defaults(frontend, MODELS, {"models": models}, by_age=False)  # type: ignore[arg-type]
        assert frontend.chosen == chosen
