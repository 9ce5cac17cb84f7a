"""Logs as the real frontend wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.control.following.reasons import reason

LAST_LINES = """System metrics command: default
Model API enabled: true
2026-07-29T04:32:39,465 [INFO ] main org.pytorch.serve.ModelServer - Loading initial models: conf.mar
2026-07-29T04:32:45,088 [INFO ] main org.pytorch.serve.ModelServer - Torchserve stopped.
"""
NOISE = """WARNING: sun.reflect.Reflection.getCallerClass is not supported. This will impact performance.
nvidia-smi not available or failed: Cannot run program "nvidia-smi": Exec failed, error: 2 (No such file or directory)
"""
KEYSTORE = """java.io.IOException: keystore password was incorrect
	at java.base/sun.security.pkcs12.PKCS12KeyStore.engineLoad(Unknown Source)
	at org.pytorch.serve.util.ConfigManager.getSslContext(ConfigManager.java:673)
	at org.pytorch.serve.ModelServer.main(ModelServer.java:105)
Caused by: java.security.UnrecoverableKeyException: failed to decrypt safe contents entry
	... 8 more
"""
NO_SPACE = """2026-07-29T05:00:00,000 [WARN ] main org.pytorch.serve.ModelServer - Failed to load model: a.mar
java.io.IOException: No space left on device
	at java.base/sun.nio.ch.UnixFileDispatcherImpl.write0(Native Method) ~[?:?]
	at org.pytorch.serve.archive.utils.ZipUtils.unzip(ZipUtils.java:45) ~[model-server.jar:?]
2026-07-29T05:00:01,000 [WARN ] main org.pytorch.serve.ModelServer - Failed to load model: b.mar
org.pytorch.serve.archive.model.InvalidModelException: Model archive is missing its handler
	at org.pytorch.serve.archive.model.ModelArchive.validate(ModelArchive.java:140) ~[model-server.jar:?]
"""
MODELS = """com.google.gson.JsonSyntaxException: java.lang.IllegalStateException: Expected BEGIN_OBJECT but was STRING
	at com.google.gson.Gson.fromJson(Gson.java:1058)
	at org.pytorch.serve.util.ConfigManager.setModelConfig(ConfigManager.java:1040)
Caused by: java.lang.IllegalStateException: Expected BEGIN_OBJECT but was STRING
	... 6 more
"""
PORT = """Exception in thread "main" java.lang.NumberFormatException: For input string: "many"
	at java.base/java.lang.Integer.parseInt(Unknown Source)
"""
PROPERTIES = {"keystore": "/k.p12", "keystore_pass": "secret", "models": "{...}", "grpc_inference_port": "many"}


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "ts_log.log").write_text(LAST_LINES)
    return tmp_path


@pytest.mark.parametrize(
    ("said", "told", "hint"),
    [
        (
            KEYSTORE,
            "IOException: keystore password was incorrect (caused by UnrecoverableKeyException: failed to decrypt safe "
            "contents entry) (keystore=/k.p12, keystore_pass)",
            "keystore_pass",
        ),
        (MODELS, "Expected BEGIN_OBJECT but was STRING (models={...})", None),
        (PORT, 'NumberFormatException: For input string: "many" (grpc_inference_port=many)', None),
        ("java.lang.OutOfMemoryError: Java heap space\n", "OutOfMemoryError: Java heap space", "-Xmx"),
        ("Invalid configuration: Input byte array has incorrect ending byte at 9\n", "Input byte array has", None),
        ("java.lang.UnsupportedClassVersionError: version 55.0\n", "UnsupportedClassVersionError", "JAVA_HOME"),
    ],
)
def test_the_exception_is_the_reason_and_names_the_setting(logs: Path, said: str, told: str, hint: str | None) -> None:
    (logs / "java.log").write_text(NOISE + said + "	at com.example.Later.line(Later.java)\n")
    found = reason(logs, PROPERTIES)
    assert told in found.text
    assert "secret" not in found.text
    assert LAST_LINES.splitlines()[0] not in found.text
    assert hint in (found.hint or "") if hint else found.hint is None


@pytest.mark.parametrize(
    ("archive", "told"), [("a.mar", "IOException: No space left on device"), ("b.mar", "InvalidModelException: Model")]
)
def test_of_a_model_that_was_not_taken_its_own_exception(logs: Path, archive: str, told: str) -> None:
    (logs / "ts_log.log").write_text(LAST_LINES + NO_SPACE)
    found = reason(logs, {}, archive)
    assert found.text.startswith(told)
    assert ("room" in (found.hint or "")) is (archive == "a.mar")


def test_what_ended_java_comes_before_what_the_frontend_noticed(logs: Path) -> None:
    (logs / "ts_log.log").write_text(NO_SPACE + LAST_LINES)
    (logs / "java.log").write_text(NOISE + KEYSTORE)
    assert "keystore" in reason(logs, {}).text


def test_without_an_exception_the_last_lines_are_shown(tmp_path: Path) -> None:
    assert reason(tmp_path, {}).text == "it said nothing"
    (tmp_path / "java.log").write_text(NOISE + "no disk\n\tat a.b.C\n")
    assert reason(tmp_path, {}).text == "no disk"


def test_what_the_python_frontend_says_of_itself(logs: Path) -> None:
    (logs / "frontend.log").write_text(
        "a warning\nThe frontend cannot start: not a number: job_queue_size=x; correct it\n"
    )
    assert reason(logs, {}).text == "not a number: job_queue_size=x; correct it"


def test_why_the_python_frontend_did_not_take_a_model(logs: Path) -> None:
    line = "2026-01-01T00:00:00,000 [ERROR] main serving.frontend.local.engine - Failed to load model: {}: {}\n"
    (logs / "ts_log.log").write_text(line.format("a.mar", "It holds no manifest.") + line.format("b.mar", "Another."))
    assert reason(logs, {}, "a.mar").text == "It holds no manifest."
