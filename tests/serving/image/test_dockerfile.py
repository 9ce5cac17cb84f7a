"""The rules that a Dockerfile of ours keeps, by its text."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from itertools import product
from typing import Any

import click
import pytest

from archive_tool.cli.entry import cli
from archive_tool.errors import InputError
from serving.image.dockerfile import MARK, Wanted, constraints, dockerfile

USUAL: dict[str, Any] = {
    "platform": "plain",
    "device": "cpu",
    "base": None,
    "wheel": "torchmar-1-py3-none-any.whl",
    "requirements": (),
    "archives": True,
    "config": False,
    "pinned": {"torch": "2.14.1", "torchvision": "0.29.1"},
}


def instructions(**changed: Any) -> list[tuple[str, str]]:
    text = dockerfile(Wanted(**USUAL | changed))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def of(word: str, found: list[tuple[str, str]]) -> list[str]:
    return [rest for one, rest in found if one == word]


def environment(found: list[tuple[str, str]]) -> dict[str, str]:
    pairs = [pair.partition("=") for rest in of("ENV", found) for pair in rest.split()]
    return {name: value for name, _, value in pairs}


EVERY = [
    {"platform": platform, "device": device, "requirements": names, "archives": archives, "config": config}
    for platform, device, names, archives, config in product(
        ("plain", "sagemaker", "kserve"), ("cpu", "cuda"), ((), ("1.txt", "2.txt")), (True, False), (True, False)
    )
]


@pytest.mark.parametrize("changed", EVERY)
def test_every_image(changed: dict[str, Any]) -> None:
    found = instructions(**changed)
    words = [word for word, _ in found]
    known = {"FROM", "ARG", "ENV", "RUN", "COPY", "LABEL", "WORKDIR", "USER", "VOLUME", "EXPOSE"}
    assert set(words) <= known | {"STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}
    assert words[0] == "FROM"
    # Not root, by a number; nothing is installed or copied afterwards.
    (user,) = of("USER", found)
    assert user.isdigit()
    assert int(user) >= 1000
    assert not {"RUN", "COPY"} & set(words[words.index("USER") :])
    # What is written to is below /tmp, which is there on a root that is read-only.
    assert of("VOLUME", found) == ['["/tmp"]']
    assert all(environment(found)[name].startswith("/tmp") for name in ("HOME", "TMPDIR", "TORCHMAR_STATE_HOME"))
    assert of("STOPSIGNAL", found) == ["SIGTERM"]
    # torch comes first and stays: each later pip has the constraints.
    first, *later = [rest for rest in of("RUN", found) if rest.startswith("pip install")]
    assert first.endswith("torch==2.14.1 torchvision==0.29.1")
    assert ("--index-url" in first) == (changed["device"] == "cpu")
    assert all("--constraint /opt/torchmar/constraints.txt" in rest for rest in later)
    assert (environment(found).get("TORCHMAR_TRUSTED_NETWORK") == "1") == (changed["platform"] != "plain")
    assert any("capabilities.multi-models=true" in rest for rest in of("LABEL", found)) == (
        changed["platform"] == "sagemaker"
    )
    assert ("model_store /srv/model_store" in of("COPY", found)) == changed["archives"]
    assert ("config.properties /srv/config.properties" in of("COPY", found)) == changed["config"]
    assert sum(".txt -r" in rest or rest.endswith("/1.txt") for rest in later) == bool(changed["requirements"])


@pytest.mark.parametrize("word", ["ENTRYPOINT", "HEALTHCHECK"])
def test_its_commands_are_understood(word: str) -> None:
    (rest,) = of(word, instructions())
    program, name, *arguments = json.loads(rest[rest.index("[") :])
    assert program == "torchmar"
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    command.make_context(name, arguments)


def test_the_bill_of_materials_is_written_when_all_is_installed() -> None:
    runs = of("RUN", instructions(requirements=("1.txt",)))
    assert runs[-1] == "python -m serving.image.bill /srv/model_store > /opt/torchmar/bill-of-materials.json"
    assert of("RUN", instructions(archives=False))[-1].startswith("python -m serving.image.bill > ")


def test_the_base_can_be_chosen_and_is_the_running_python_by_default() -> None:
    assert of("FROM", instructions()) == [f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"]
    named = "registry.example:5000/team/python@sha256:" + "0" * 64
    assert of("FROM", instructions(base=named)) == [named]


@pytest.mark.parametrize("base", ["", "a b", "x\nRUN evil", "-x", "$X", "${X}", "x" * 300])
def test_what_is_no_name_of_an_image_is_refused(base: str) -> None:
    with pytest.raises(InputError, match="not the name of an image"):
        instructions(base=base)


def test_torch_is_pinned_as_it_is_here_without_the_part_of_its_index() -> None:
    usual = {name: value for name, value in USUAL.items() if name != "pinned"}
    assert constraints(Wanted(**usual)).splitlines() == [
        f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "torchvision")
    ]


def test_it_can_be_told_that_it_is_ours() -> None:
    assert dockerfile(Wanted(**USUAL)).startswith(MARK)
