"""torchmar deploy ray on the command line, as far as it needs no cluster; integration/test_ray.py has the rest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click
import pytest
import yaml

import archive_tool
from archive_tool.cli import entry


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "h.py").write_text("def handle(data, context):\n    return data\n")
    for version in ("1.0", "2.0"):
        archive_tool.build(model_name="echo", version=version, handler="h.py", export_path="store", force=True)
        (tmp_path / "store" / "echo.mar").rename(tmp_path / "store" / f"echo-{version}.mar")
    return tmp_path


def test_a_config_names_everything_that_the_cluster_needs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archives = ["store/echo-1.0.mar", "store/echo-2.0.mar"]
    options = ["--config-only", "--archives-at", "/models", "--workers", "3", "--cpus", "0.5", "--gpus", "1"]
    assert entry.main(["deploy", "ray", *archives, *options]) == 0
    text = capsys.readouterr().out
    found = yaml.safe_load(text)
    assert "RAY_SERVE_ENABLE_HA_PROXY='1'" in text
    assert "TORCHMAR_INFERENCE_KEY" in text
    assert found["http_options"] == {"host": "0.0.0.0", "port": 8080}
    front, first, second = found["applications"]
    assert (front["name"], front["route_prefix"]) == ("front", "/")
    assert (first["name"], first["route_prefix"]) == ("echo--1.0", "/predictions/echo")
    assert (second["name"], second["route_prefix"]) == ("echo--2.0", "/predictions/echo/2.0")
    args = second["args"]
    assert args["archive"] == "/models/echo-2.0.mar"
    assert args["sha256"] == hashlib.sha256((folder / "store" / "echo-2.0.mar").read_bytes()).hexdigest()
    assert (first["args"]["default"], args["default"]) == (True, False)
    server = args["server"]
    assert (server["cpus"], server["gpus"]) == (0.5, 1.0)
    assert server["properties"]["default_workers_per_model"] == "3"
    assert server["properties"]["disable_token_authorization"] == "false"
    assert not [key for key in server["properties"] if "address" in key or key.startswith("torchmar_")]
    assert front["args"] == {"server": server}
    assert "signature_key" not in server
    assert "&id" not in text, "each application can be read by itself"


def test_a_config_asks_for_signatures_where_they_are_required(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["deploy", "ray", "store/echo-1.0.mar", "--config-only", "--require-signature", "public.pem"]
    for at, path in (([], str(folder / "public.pem")), (["--archives-at", "/models"], "/models/public.pem")):
        assert entry.main([*command, *at]) == 0
        for one in yaml.safe_load(capsys.readouterr().out)["applications"]:
            assert one["args"]["server"]["signature_key"] == path


def test_on_loopback_no_key_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["deploy", "ray", "store/echo-1.0.mar", "--config-only", "--host", "127.0.0.1"]) == 0
    text = capsys.readouterr().out
    assert "TORCHMAR_INFERENCE_KEY" not in text
    assert (
        yaml.safe_load(text)["applications"][0]["args"]["server"]["properties"]["disable_token_authorization"] == "true"
    )


def test_without_keys_nothing_listens_beyond_loopback(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "config.properties").write_text("disable_token_authorization=true\n")
    for options in ([], ["--config-only"]):
        command = ["deploy", "ray", "store/echo-1.0.mar", "--host", "0.0.0.0", *options]
        assert entry.main([*command, "--ts-config", "config.properties"]) == 6
        told = capsys.readouterr().err
        assert "refusing to listen on 0.0.0.0 without token authorization" in told
        assert "at: config.properties" in told
    # A file that nobody named opens nothing.
    assert entry.main([*command, "--config-only"]) == 0
    found = capsys.readouterr()
    assert "disable_token_authorization=true of config.properties does not hold" in found.err
    assert "disable_token_authorization: 'false'" in found.out


def test_what_cannot_be_deployed_is_told_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["deploy", "ray", "two words=store/echo-1.0.mar", "--config-only"]) != 0
    capsys.readouterr()
    (folder / "store" / "copy.mar").write_bytes((folder / "store" / "echo-1.0.mar").read_bytes())
    command = ["deploy", "ray", "store/echo-1.0.mar", "store/copy.mar", "--config-only"]
    assert entry.main(command) == 1
    assert "the same name and version" in capsys.readouterr().err
    assert entry.main(["deploy", "ray"]) == 2


def test_every_subcommand_has_the_help_that_is_listed() -> None:
    import importlib

    from serving.cli.deploy.group import COMMANDS

    for section in COMMANDS.values():
        for name, row in section.items():
            module, _, attribute = row.target.partition(":")
            command = getattr(importlib.import_module(module), attribute)
            assert command.name == name
            assert command.help.splitlines()[0] == row.help
            assert f"torchmar deploy {name}" in command.help
            assert all(option.help for option in command.params if isinstance(option, click.Option))
