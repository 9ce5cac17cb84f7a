from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.errors import InputError
from serving.control.configuration import config
from serving.control.configuration.config import ModelSpec

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize(
    ("text", "name", "archive"),
    [
        ("mnist=mnist.mar", "mnist", "mnist.mar"),
        ("mnist.mar", "", "mnist.mar"),
        ("folder/", "", "folder/"),
        ("https://host.example/v1/m.mar", "", "https://host.example/v1/m.mar"),
        ("m=https://host.example/m.mar?version=1", "m", "https://host.example/m.mar?version=1"),
    ],
)
def test_a_model_is_an_archive_with_a_name_or_without(text: str, name: str, archive: str) -> None:
    assert ModelSpec.parse(text) == ModelSpec(name, archive)
    assert str(ModelSpec(name, archive)) == text


@pytest.mark.parametrize(
    ("file", "name"),
    [("mnist.mar", "mnist"), ("my-model.v2.mar", "my_model_v2"), ("net.tar.gz", "net"), ("folder/", "folder")],
)
def test_a_model_without_a_name_is_named_as_torchserve_names_it(file: str, name: str) -> None:
    assert ModelSpec.stem(file) == name


@pytest.mark.parametrize(
    "text", ["", "=", "a=", "=a.mar", " = ", "https://host.example/m.mar?v=1", "m=http://h/a,b.mar"]
)
def test_half_a_model_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"not a model|cuts the URL"):
        ModelSpec.parse(text)


def test_the_repositorys_configuration_says_what_the_defaults_say() -> None:
    repository = config.read_properties(ROOT / "config.properties")
    for key, value in config.default_properties().items():
        assert repository[key] == value, key
    # Nothing of the model API, which is off as in TorchServe; and for the stock command no keys, as by default here.
    assert set(repository) - set(config.default_properties()) == {
        "disable_token_authorization",
        "model_store",
        "vmargs",
        "workflow_store",
    }
    access = {"disable_token_authorization": "true", "workflow_store": "/dev/null"}
    assert access.items() <= repository.items()


def test_defaults_hold_and_the_users_file_and_the_command_line_win_in_turn() -> None:
    found = config.effective({"metrics_mode": "log", "default_workers_per_model": "3"}, port=None, workers=2)
    assert found["allowed_urls"] == "(?!)"
    assert found["metrics_mode"] == "log"
    assert found["default_workers_per_model"] == "2"


def test_the_response_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.response_timeout({}) == 120
    assert config.response_timeout({"default_response_timeout": "30"}) == 30
    monkeypatch.setenv("SECONDS_OF_MINE", "40")
    found = config.effective({"default_response_timeout": "$$SECONDS_OF_MINE$$"}, port=None, workers=None)
    assert config.response_timeout(found) == 40
    for text in ("", "1.5", "-1", "30 ", "$$NOT_SET$$"):
        with pytest.raises(InputError, match="not a number of seconds"):
            config.response_timeout({"default_response_timeout": text})


def test_port_numbers_all_five() -> None:
    found = config.effective({"inference_address": "http://localhost:9999"}, port=5000, workers=None)
    assert found["inference_address"] == "http://localhost:5000"
    assert [entry.port for entry in config.listeners(found)] == [5000, 5001, 5002, 5003, 5004]


def test_port_keeps_ipv6_hosts_and_unix_sockets() -> None:
    user = {"inference_address": "unix:/tmp/x.sock", "management_address": "http://[::1]:8081"}
    found = config.effective(user, port=5000, workers=None)
    assert found["inference_address"] == "unix:/tmp/x.sock"
    assert found["management_address"] == "http://[::1]:5000"


def test_environment_settings_count_when_the_frontend_would_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_INFERENCE_ADDRESS", "http://127.0.0.1:9090")
    assert config.effective({}, port=None, workers=None)["inference_address"].endswith(":8080")
    found = config.effective({"enable_envvars_config": "true"}, port=None, workers=None)
    assert found["inference_address"].endswith(":9090")


@pytest.mark.parametrize("key", ["enable_model_api", "disable_token_authorization", "workflow_store"])
def test_no_environment_variable_decides_on_access_unseen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    value = str(tmp_path) if key == "workflow_store" else "true"
    monkeypatch.setenv(f"TS_{key.upper()}", value)
    assert key not in config.effective({}, port=None, workers=None)
    assert config.effective({"enable_envvars_config": "true"}, port=None, workers=None)[key] == value


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.1.2.3", False), ("::", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert config.is_loopback(host) is expected


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such configuration file: .*missing\.properties"):
        config.read_properties(tmp_path / "missing.properties")


@pytest.mark.parametrize("text", ["many", "-1", "65536", ""])
def test_a_port_that_is_none_is_named(text: str) -> None:
    with pytest.raises(InputError, match=f"not a port: grpc_inference_port={text}$"):
        config.listeners(config.default_properties() | {"grpc_inference_port": text})


KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=10)
VALUES = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, properties: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("p") / "config.properties"
    config.write_properties(path, properties)
    assert config.read_properties(path) == properties


def test_a_setting_that_is_no_address_is_named() -> None:
    with pytest.raises(InputError, match="metrics_address=localhost:8082: not an address"):
        config.listeners(config.effective({"metrics_address": "localhost:8082"}, port=None, workers=None))
