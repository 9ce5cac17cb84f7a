"""The worker's part of model-config.yaml."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from archive_tool.config.safe_yaml import MAX_BYTES
from serving.worker.loading import settings
from serving.worker.loading.failures import ConfigError
from serving.worker.loading.settings import Backend
from tests.serving.worker.frontend import archive

MANIFEST = "MAR-INF/MANIFEST.json"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(settings.RESPONSE_TIMEOUT_VARIABLE, raising=False)


def read(folder: Path) -> tuple[dict[str, Any], Backend]:
    return settings.read_config(folder, settings.read_manifest(folder))


def test_an_archive_that_says_nothing(tmp_path: Path) -> None:
    folder = archive(tmp_path / "m")
    assert read(folder) == ({}, Backend())
    assert settings.peek(str(folder)) == Backend()


def test_no_manifest(tmp_path: Path) -> None:
    """Functions of workflows have none."""
    assert settings.read_manifest(tmp_path) is None
    assert read(tmp_path) == ({}, Backend())


@pytest.mark.parametrize("text", ["", "{", "\xff", "[]", '"x"', "1"])
def test_a_broken_manifest(tmp_path: Path, text: str) -> None:
    folder = archive(tmp_path / "m")
    (folder / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as raised:
        settings.read_manifest(folder)
    assert raised.value.where == MANIFEST
    assert settings.peek(str(folder)) is None


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (None, None),
        ({}, None),
        ({"model": []}, None),
        ({"model": {}}, None),
        ({"model": {"configFile": None}}, None),
        ({"model": {"configFile": ""}}, None),
        ({"model": {"configFile": 3}}, None),
        ({"model": {"configFile": "a.yaml"}}, "a.yaml"),
    ],
)
def test_the_name_of_the_configuration(manifest: dict[str, Any] | None, expected: str | None) -> None:
    assert settings.config_file(manifest) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"handler": {"x": 1}}, Backend()),
        ({"backend": {}}, Backend()),
        ({"backend": {"mode": "shared"}}, Backend(shared=True)),
        ({"backend": {"mode": "dedicated", "threads": 3}}, Backend(threads=3)),
        (
            {
                "backend": {
                    "mode": "shared",
                    "max_batch_size": 4,
                    "max_batch_delay_ms": 2.5,
                    "processes": 2,
                    "threads": "auto",
                    "isolate_errors": False,
                    "pipeline": False,
                }
            },
            Backend(True, 4, 0.0025, 2, None, isolate_errors=False, pipeline=False),
        ),
        ({"backend": {"warm_up": False}}, Backend(warm_up=False)),
        ({"responseTimeout": 7}, Backend(response_timeout_s=7.0)),
        ({"startupTimeout": 600}, Backend(startup_timeout_s=600.0)),
        ({"startupTimeout": 0}, Backend()),
        ({"responseTimeout": "7"}, Backend()),
        ({"responseTimeout": True}, Backend()),
        ({"responseTimeout": 0}, Backend()),
        ({"continuousBatching": True}, Backend(stateful=True, continuous=True)),
        ({"sequenceBatching": True, "sequenceMaxIdleMSec": 5}, Backend(stateful=True)),
        ({"sequenceMaxIdleMSec": 5}, Backend(stateful=True)),
        ({"sequenceMaxIdleMSec": 0, "continuousBatching": "true"}, Backend()),
    ],
)
def test_settings(tmp_path: Path, config: dict[str, Any], expected: Backend) -> None:
    folder = archive(tmp_path / "m", config=config)
    assert read(folder) == (config, expected)
    assert settings.peek(str(folder)) == expected


def test_an_empty_configuration(tmp_path: Path) -> None:
    folder = archive(tmp_path / "m", config={})
    (folder / "model-config.yaml").write_text("# nothing yet\n")
    assert read(folder) == ({}, Backend())


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: [1\nb: 2\n", "model-config.yaml:2", "not YAML"),
        ("- 1\n", "model-config.yaml", "no mapping"),
        ("just text\n", "model-config.yaml", "no mapping"),
        ("a: \x01\n", "model-config.yaml", "not YAML"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", "model-config.yaml:2", "python/object"),
        ('a: !!int ""\n', "model-config.yaml", "not YAML"),
        ("a: " + "[" * 1000, "model-config.yaml:1", "more than 50 parts within each other"),
        ("é" * (MAX_BYTES // 2) + "é", "model-config.yaml", f"cannot be read: it is longer than {MAX_BYTES} bytes"),
        ("x: 1\nbackend:\n  mode: both\n", "model-config.yaml:3", "dedicated or shared"),
        ("backend:\n  batch_size: 3\n", "model-config.yaml:2", "batch_size"),
        ("backend: shared\n", "model-config.yaml:1", "mapping"),
        ("backend:\n  mode: shared\n  max_batch_size: 0\n", "model-config.yaml:3", "max_batch_size"),
        ("continuousBatching: true\nbackend:\n  mode: shared\n", "model-config.yaml:3", "continuousBatching"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, text: str, where: str, what: str) -> None:
    folder = archive(tmp_path / "m", config={})
    (folder / "model-config.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        read(folder)
    assert raised.value.where == where
    assert what in raised.value.message
    assert settings.peek(str(folder)) is None


def test_merge_keys_that_multiply(tmp_path: Path) -> None:
    """A file of some hundred bytes, whose 9**12 settings would be copied in the process that forks all workers."""
    lines = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 13)]
    folder = archive(tmp_path / "m", config={})
    (folder / "model-config.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="merge keys make too many settings") as raised:
        read(folder)
    assert raised.value.where.startswith("model-config.yaml:")
    assert settings.peek(str(folder)) is None
    (folder / "model-config.yaml").write_text("a: &a {x: 1}\nhandler: {<<: *a}\n")
    assert read(folder)[0]["handler"] == {"x": 1}


def test_what_is_wrong_elsewhere_is_not_for_us_to_refuse(tmp_path: Path) -> None:
    """Java goes on with such settings as if they were not there."""
    folder = archive(tmp_path / "m", config={"minWorkers": "many", "backend": {"mode": "shared"}})
    assert read(folder)[1] == Backend(shared=True)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_configuration_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    folder = archive(tmp_path / "m", config={})
    path = folder / "model-config.yaml"
    path.unlink()
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read") as raised:
        read(folder)
    assert raised.value.where == "model-config.yaml"


@pytest.mark.parametrize(("value", "expected"), [("30", 30.0), ("0.1", 1.0), ("", 120.0), ("soon", 120.0)])
def test_the_servers_timeout_holds_for_a_model_without_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: float
) -> None:
    """With one Java's own default holds, whatever the server's configuration says."""
    monkeypatch.setenv(settings.RESPONSE_TIMEOUT_VARIABLE, value)
    assert read(archive(tmp_path / "without"))[1].response_timeout_s == expected
    assert read(archive(tmp_path / "with", config={"a": 1}))[1].response_timeout_s == 120.0


HOSTILE_MANIFESTS = {
    "a key twice": b'{"model": {"handler": "a", "handler": "b"}}',
    "utf-16": '{"model": {}}'.encode("utf-16"),
    "depth": b'{"model": ' + b"[" * 1000 + b"]" * 1000 + b"}",
}


@pytest.mark.parametrize("which", HOSTILE_MANIFESTS)
def test_a_manifest_is_read_as_the_archive_tool_reads_it(which: str, tmp_path: Path) -> None:
    folder = archive(tmp_path / "m")
    (folder / MANIFEST).write_bytes(HOSTILE_MANIFESTS[which])
    with pytest.raises(ConfigError, match="the manifest cannot be read"):
        settings.read_manifest(folder)


def test_pipes_in_a_folder_that_is_served_as_it_is(tmp_path: Path) -> None:
    """The process that forks all workers reads these files, too."""
    folder = archive(tmp_path / "m")
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    with pytest.raises(ConfigError, match="not a regular file"):
        settings.read_manifest(folder)
    os.mkfifo(folder / "c.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        settings.read_config(folder, {"model": {"configFile": "c.yaml"}})
    assert settings.peek(str(folder)) is None
