"""The contents of a config.properties; tests/integration/test_settings.py asks the real frontend."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.control.configuration import settings
from serving.control.configuration.java import torchserve_home
from serving.control.configuration.settings import KEYS, checked, expanded, from_environment, models_of, warnings


def test_all_keys_of_the_frontend_are_known() -> None:
    """Its ConfigManager's constants, from the jar itself."""
    jar = torchserve_home() / "ts" / "frontend" / "model-server.jar"
    command = ["javap", "-p", "-constants", "-cp", str(jar), "org.pytorch.serve.util.ConfigManager"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("there is no javap")
    constants = [line.split('"')[1] for line in told.splitlines() if "static final java.lang.String " in line]
    values = {"MODEL_METRICS", "MODEL_LOG", "TS_METRICS", "TELEMETRY_METRICS", "prometheus", "file://.*|http(s)?://.*"}
    defaults = {name for name in constants if name.startswith("ts_request_sequence_")}
    assert len(constants) > 70
    assert set(constants) - values - defaults <= set(KEYS)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("job_queue_siez", "did you mean job_queue_size?"),
        ("metrics_conifg", "did you mean metrics_config?"),
        ("enable_model_apis", "did you mean enable_model_api?"),
        ("batch_size", "batchSize is one of a model"),
        ("min_workers", "minWorkers is one of a model"),
        ("something_of_nobody", "which will ignore it"),
    ],
)
def test_a_key_that_is_not_known_is_told_with_the_nearest(key: str, told: str) -> None:
    (text,) = warnings({key: "1", "job_queue_size": "100"}, "c.properties")
    assert text.startswith(f"c.properties: {key} is no setting of TorchServe")
    assert text.endswith(told) or told in text


def test_what_is_right_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("mode: prometheus\n")
    user = {"metrics_mode": "Prometheus", "ipex_enable": "FALSE", "metrics_config": str(tmp_path / "m.yaml")}
    user |= {"models": '{"m": {"1.0": {"minWorkers": 1, "maxWorkers": 1, "defaultVersion": true}}}', "vmargs": "-Xmx1g"}
    assert list(warnings(user, "c")) == []


@pytest.mark.parametrize(
    ("user", "told"),
    [
        ({"ipex_enable": "yes"}, "ipex_enable=yes is neither true nor false"),
        ({"metrics_mode": "prometeus"}, "metrics_mode=prometeus is none of log, prometheus, legacy"),
        ({"models": '{"m": {"1.0": {"minWorker": 1}}}'}, "m 1.0: minWorker is no setting .* did you mean minWorkers?"),
        ({"models": '{"m": {"1.0": {"deviceType": "gpu"}}}'}, "m 1.0: deviceType is no setting of TorchServe's there$"),
    ],
)
def test_what_the_frontend_would_pass_over_is_told(user: dict[str, str], told: str) -> None:
    (text,) = warnings(user, "c")
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(text)


def test_metrics_that_are_not_yaml_are_told(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("a: [")
    (text,) = warnings({"metrics_config": str(tmp_path / "m.yaml")}, "c")
    assert "is not YAML" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("job_queue_size", "many"),
        ("job_queue_size", "0"),
        ("job_queue_size", "100 "),
        ("max_request_size", "6553500000"),
        ("number_of_gpu", "-1"),
        ("metric_time_interval", "1.5"),
        ("unregister_model_timeout", ""),
        ("grpc_inference_max_connection_age_ms", "9223372036854775808"),
    ],
)
def test_a_number_that_the_frontend_cannot_read_is_named(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(InputError, match=f"(?m)not an integer from [01] to [0-9]+: {key}={value}$"):
        checked({key: value}, tmp_path)


def test_numbers_that_the_frontend_reads(tmp_path: Path) -> None:
    told = {"job_queue_size": "1", "number_of_gpu": "0", "grpc_inference_max_connection_age_ms": str(2**63 - 1)}
    assert checked(told, tmp_path) == told


@pytest.mark.parametrize(
    "key", ["metrics_config", "keystore", "private_key_file", "certificate_file", "cpp_log_config"]
)
def test_a_path_is_absolute_and_must_lead_to_a_file(tmp_path: Path, key: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").touch()
    assert checked({key: "there/x"}, tmp_path) == {key: str(tmp_path / "there" / "x")}
    assert checked({key: str(tmp_path / "there" / "x")}, Path("/")) == {key: str(tmp_path / "there" / "x")}
    for wrong in ("x", "there", ""):
        with pytest.raises(InputError, match=f"(?m)no such file: {key}={wrong}$") as caught:
            checked({key: wrong}, tmp_path)
        assert caught.value.hint


def test_folders_are_absolute_too(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert checked({"workflow_store": "there"}, tmp_path) == {"workflow_store": str(tmp_path / "there")}
    for plugins in ("there", "there/*"):
        assert checked({"plugins_path": plugins}, tmp_path) == {"plugins_path": str(tmp_path / "there" / "*")}
    for key in ("workflow_store", "plugins_path"):
        with pytest.raises(InputError, match=f"no such folder: {key}=nowhere"):
            checked({key: "nowhere"}, tmp_path)


def test_environment_variables_are_put_in_as_the_frontend_does() -> None:
    found = expanded(
        {"metrics_config": "$$HERE$$/m.yaml", "load_models": "$$A$$", "debug": "x"}, {"HERE": "/h", "A": "b"}
    )
    assert found == {
        "metrics_config": "/h/m.yaml",
        "load_models": "$$A$$",
        "debug": "x",
    }  # it takes no name of one letter
    with pytest.raises(InputError, match=r"keystore=\$\$NOT_THERE\$\$: the environment variable NOT_THERE is not set"):
        expanded({"keystore": "$$NOT_THERE$$"}, {})


def test_a_password_out_of_the_environment_is_written_nowhere() -> None:
    assert expanded({"keystore_pass": "$$PASS$$"}, {"PASS": "secret"}) == {"keystore_pass": "$$PASS$$"}
    with pytest.raises(InputError, match="PASS is not set"):
        expanded({"keystore_pass": "$$PASS$$"}, {})


def test_what_the_frontend_takes_from_the_environment() -> None:
    environ = {"TS_METRICS_CONFIG": "m.yaml", "TS_ALLOWED_URLS": ".*", "TS_MODELS": "{}", "METRICS_MODE": "log"}
    assert from_environment({}, environ) == {}
    assert from_environment({"enable_envvars_config": "True"}, environ) == {"metrics_config": "m.yaml"}
    both = {"enable_envvars_config": "true", "use_env_allowed_urls": "true"}
    assert from_environment(both, environ) == {"metrics_config": "m.yaml", "allowed_urls": ".*"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "models={ is not JSON"),
        ("[1]", "models is .1., and not an object"),
        ('{"m": 1}', "models m is 1, and not an object"),
        ('{"m": {"1.0": "2"}}', "m 1.0 is 2, and not an object"),
        ('{"m": {"1.0": {"minWorkers": "two"}}}', "m 1.0: minWorkers is two, and not an integer"),
        ('{"m": {"1.0": {"batchSize": true}}}', "m 1.0: batchSize is true, and not an integer"),
        ('{"m": {"1.0": {"batchSize": [1]}}}', "batchSize is .1., and not an integer"),
        ('{"m": {"1.0": {"defaultVersion": 1}}}', "m 1.0: defaultVersion is 1, and neither true nor false"),
        ('{"m": {"1.0": {"minWorkers": 3, "maxWorkers": 2}}}', r"m 1.0: maxWorkers is less than minWorkers \(2 < 3\)"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_models_that_the_frontend_cannot_read_are_named(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        models_of({"models": text})


def test_models_as_the_frontend_reads_them() -> None:
    assert models_of({}) == models_of({"models": " "}) == {}
    expected = {"m": {"1.0": {"minWorkers": 2, "maxWorkers": 0, "marName": "m.mar"}}}
    assert models_of({"models": '{"m": {"1.0": {"minWorkers": 2, "maxWorkers": 0, "marName": "m.mar"}}}'}) == expected
    assert models_of({"models": "{m: {'1.0': {minWorkers: 2, maxWorkers: 0, marName: m.mar}}}"}) == expected


def test_every_kind_is_one_that_is_looked_at() -> None:
    kinds = {"text", "flag", "mode", "file", "folder", "form", "frontend", "plugins", "share", *settings._LIMITS}
    assert set(KEYS.values()) == kinds


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "", "1_0", "1e-2", "half", "9" * 400])
def test_a_share_is_a_number_from_0_to_1(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError, match="not a number from 0 to 1: torchmar_access_log_share="):
        settings.checked({settings.ACCESS_SHARE: value}, tmp_path)


def test_shares_and_forms_of_logs(tmp_path: Path) -> None:
    for value, number in (("0", 0.0), ("1", 1.0), ("1.0", 1.0), (" .25 ", 0.25), ("0.001", 0.001)):
        assert settings.share_of(settings.checked({"a": value}, tmp_path), "a", 1.0) == number
    assert settings.share_of({}, "a", 0.5) == 0.5
    assert settings.checked({settings.LOG_FORM: " JSON"}, tmp_path) == {settings.LOG_FORM: "json"}
    with pytest.raises(InputError, match="no such form of logs: torchmar_log_format=xml"):
        settings.checked({settings.LOG_FORM: "xml"}, tmp_path)
