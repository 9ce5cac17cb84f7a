"""Config files as TorchServe's frontend understands them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.config import effective
from archive_tool.config.backend_keys import KEYS
from archive_tool.config.effective import DEFAULT, FILE, SERVER, Ignored, Setting, understand

TORCHRUN = "torchrun: {nproc-per-node: 4}"


def setting(text, key):
    return next((one for one in understand(text).settings if one.key == key), None)


def ignored(text):
    return {item.key: item.reason for item in understand(text).ignored}


def test_without_a_file_the_server_decides():
    found = {one.key: (one.value, one.source) for one in understand(None).settings}
    for key in ("minWorkers", "maxWorkers", "responseTimeout", "startupTimeout", "jobQueueSize", "deviceType"):
        assert found[key] == (None, SERVER)
    assert found["batchSize"] == (1, DEFAULT)
    assert found["maxBatchDelay"] == (100, DEFAULT)
    assert found["maxRetryTimeoutInSec"] == (300, DEFAULT)
    assert found["clientTimeoutInMills"] == (0, DEFAULT)
    assert found["useVenv"] == (False, DEFAULT)
    assert found["backend.mode"] == ("dedicated", DEFAULT)
    assert found["backend.warm_up"] == (True, DEFAULT)
    assert "deviceIds" not in found
    assert understand(None).notes == ()
    assert understand(None).document == {}


def test_a_file_as_it_is_written():
    text = """
minWorkers: 1
maxWorkers: 2
batchSize: 8
maxBatchDelay: 5
responseTimeout: 30
startupTimeout: 60
deviceType: GPU
deviceIds: [0, 1]
maxRetryTimeoutInSec: 10
clientTimeoutInMills: 20
jobQueueSize: 7
useJobTicket: true
"""
    found = understand(text)
    assert found.ignored == ()
    expected = {"minWorkers": 1, "maxWorkers": 2, "batchSize": 8, "maxBatchDelay": 5, "responseTimeout": 30}
    expected |= {"startupTimeout": 60, "deviceType": "gpu", "deviceIds": [0, 1], "maxRetryTimeoutInSec": 10}
    expected |= {"clientTimeoutInMills": 20, "jobQueueSize": 7, "useJobTicket": True}
    assert {one.key: one.value for one in found.settings if one.source == FILE} == expected
    assert found.value("batchSize") == 8
    assert found.value("nothing") is None


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("batchSize: 0", "batchSize", Setting("batchSize", 1, FILE)),
        ("batchSize: -3", "batchSize", Setting("batchSize", 1, FILE)),
        ("maxBatchDelay: 0", "maxBatchDelay", Setting("maxBatchDelay", 100, DEFAULT)),
        ("maxBatchDelay: -1", "maxBatchDelay", Setting("maxBatchDelay", 100, DEFAULT)),
        ("maxBatchDelay: 1", "maxBatchDelay", Setting("maxBatchDelay", 1, FILE)),
        ("responseTimeout: 0", "responseTimeout", Setting("responseTimeout", 120, DEFAULT)),
        ("responseTimeout: 1", "responseTimeout", Setting("responseTimeout", 1, FILE)),
        ("a: 1", "startupTimeout", Setting("startupTimeout", 120, DEFAULT)),
        ("minWorkers: 0\nmaxWorkers: 1", "minWorkers", Setting("minWorkers", 1, FILE)),
        ("minWorkers: 2\nmaxWorkers: 1", "minWorkers", Setting("minWorkers", None, SERVER)),
        ("minWorkers: 2\nmaxWorkers: 2", "maxWorkers", Setting("maxWorkers", 2, FILE)),
        ("minWorkers: 2", "minWorkers", Setting("minWorkers", None, SERVER)),
        ("jobQueueSize: 0", "jobQueueSize", Setting("jobQueueSize", None, SERVER)),
        ("clientTimeoutInMills: -5", "clientTimeoutInMills", Setting("clientTimeoutInMills", 0, FILE)),
        ("maxRetryTimeoutInSec: -5", "maxRetryTimeoutInSec", Setting("maxRetryTimeoutInSec", 0, FILE)),
        ("deviceType: tpu", "deviceType", Setting("deviceType", None, SERVER)),
        ("parallelType: tp\nparallelLevel: 2", "parallelLevel", Setting("parallelLevel", 2, FILE)),
        ("parallelType: tp", "parallelLevel", Setting("parallelLevel", 0, FILE)),
        ("parallelType: tp\nparallelLevel: -2", "parallelLevel", Setting("parallelLevel", 0, FILE)),
        ("parallelLevel: 2", "parallelLevel", None),
        ("parallelType: tp\ntorchrun: {nproc-per-node: 4}", "parallelLevel", Setting("parallelLevel", 4, FILE)),
        ("parallelType: tp\ntorchrun: {}", "parallelLevel", Setting("parallelLevel", 1, FILE)),
        (f"{TORCHRUN}\nparallelLevel: 2\nparallelType: tp", "parallelLevel", Setting("parallelLevel", 2, FILE)),
        (f"parallelLevel: 2\n{TORCHRUN}\nparallelType: tp", "parallelLevel", Setting("parallelLevel", 4, FILE)),
        ("sequenceTimeoutMSec: 5", "sequenceTimeoutMSec", None),
        ("sequenceMaxIdleMSec: 5\nmaxNumSequence: 0", "maxNumSequence", Setting("maxNumSequence", 1, FILE)),
        ("sequenceMaxIdleMSec: 5", "maxSequenceJobQueueSize", Setting("maxSequenceJobQueueSize", 1, DEFAULT)),
        ("deviceIds: [0, x]", "deviceIds", None),
        ("deviceIds: []", "deviceIds", None),
        ("batchSize: 2147483648", "batchSize", Setting("batchSize", 1, DEFAULT)),
    ],
)  # fmt: skip
def test_values_that_are_bent_or_passed_over(text, key, expected):
    assert setting(text, key) == expected


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("batchSize: many", "batchSize", "it is no integer"),
        ("batchSize: true", "batchSize", "it is no integer"),
        ("batchSize: 2147483648", "batchSize", "it is no integer"),
        ('maxBatchDelay: "5"', "maxBatchDelay", "it is no integer"),
        ("maxBatchDelay: 0", "maxBatchDelay", "0 means the default of 100 ms"),
        ("maxBatchDelay: -1", "maxBatchDelay", "it is negative"),
        ("minWorkers: 1", "minWorkers", "both must be there, with maxWorkers not less than minWorkers"),
        ("minWorkers: 2\nmaxWorkers: 1", "maxWorkers", "both must be there, with maxWorkers not less than minWorkers"),
        ("deviceType: tpu", "deviceType", "it is none of cpu, gpu"),
        ("parallelType: 3", "parallelType", "it is none of pp, tp, pptp, custom"),
        ("deviceIds: []", "deviceIds", "it is empty"),
        ("responseTimeout: 0", "responseTimeout", "it is not above 0"),
        ("jobQueueSize: 0", "jobQueueSize", "it is not above 0"),
        ("parallelLevel: 0", "parallelLevel", "it has no effect without parallelType"),
        ("deviceIds: 3", "deviceIds", "it is no list of integers"),
        ("parallelLevel: 2", "parallelLevel", "it has no effect without parallelType"),
        ("torchrun: 3", "torchrun", "it is no mapping"),
        ("useVenv: 1", "useVenv", "it is neither true nor false"),
        ("maxNumSequence: 3", "maxNumSequence", "it has no effect without sequenceMaxIdleMSec"),
        ("backend: {processes: 2}", "backend.processes", "it has no effect without mode: shared"),
    ],
)
def test_what_has_no_effect(text, key, reason):
    assert ignored(text)[key] == reason


def test_our_own_section():
    found = understand("backend: {mode: shared, max_batch_size: 4, warm_up: false}")
    assert {one.key for one in found.settings if one.key.startswith("backend.")} == {f"backend.{key}" for key in KEYS}
    assert found.value("backend.max_batch_size") == 4
    assert found.value("backend.warm_up") is False
    assert found.value("backend.processes") == 1
    assert understand("backend: 3").value("backend.mode") == "dedicated"


def test_keys_for_the_handler():
    assert understand("handler: {a: 1}\nmine: 2\nbatchSize: 1\nbackend: {}\n3: x").for_handler == ("handler", "mine")


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("a: 1", "responseTimeout is 120 s, and not the server's default_response_timeout"),
        ("a: 1", "startupTimeout is 120 s, and not the server's default_startup_timeout"),
        ("deviceType: gpu", "means cpu on a server that finds no GPU"),
        ("deviceIds: [0]", "ignored as a whole"),
        ("torchrun: {}\nparallelLevel: 2", "the later line counts"),
        ("maxBatchDelay: 5", "a registration with a JSON body"),
        ("batchSize: many", "line 1: batchSize: expected an integer from 1, got 'many'; TorchServe would ignore it"),
        ("", "the config file is empty: TorchServe fails to register the model"),
        ("[1]", "holds no mapping"),
        ("a: !!python/name:os.system", "makes an object of a program"),
        ("&a [*a", "not YAML"),
    ],
)
def test_notes(text, note):
    assert any(note in one for one in understand(text).notes)


def test_notes_that_are_not_needed():
    text = "responseTimeout: 5\nstartupTimeout: 5\nbatchSize: 4\nminWorkers: 1\nmaxWorkers: 1\n"
    assert understand(text).notes == ()
    assert understand(text).document["batchSize"] == 4


@pytest.mark.parametrize("text", ["", "[1]", "a: !!python/name:os.system", "a: [", "3"])
def test_files_without_settings(text):
    found = understand(text)
    assert found.document == {}
    assert found.value("responseTimeout") == 120


def test_bombs_are_not_unfolded():
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + level)}: &{chr(98 + level)} [" + ", ".join([f"*{chr(97 + level)}"] * 9) + "]\n"
        for level in range(12)
    )
    found = understand(f"{text}backend: {{mode: *m}}".replace("*m", "*l"))
    assert len(json.dumps(effective.plain(found.value("backend.mode")))) < 100_000


def test_merge_keys_that_multiply():
    lines = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 13)]
    found = understand("\n".join(["batchSize: 3", *lines]))
    assert found.document == {}
    assert any("merge keys" in note for note in found.notes)
    assert understand("a: &a {x: 1}\nb: {<<: *a}").document["b"] == {"x": 1}


def test_plain_values():
    import datetime

    assert effective.plain({"a": [1, 2.5, None, True, "x"]}) == {"a": [1, 2.5, None, True, "x"]}
    assert effective.plain(10**5000) == "a number out of all bounds"
    assert effective.plain(float("nan")) == "nan"
    assert effective.plain("x" * 2000) == "x" * 1000 + "..."
    assert effective.plain(datetime.date(2020, 1, 2)) == "2020-01-02"
    assert effective.plain(b"x") == "a bytes"
    assert effective.plain([[[1]]]) == [["a list"]]
    loop = []
    loop.append(loop)
    json.dumps(effective.plain(loop))


@given(
    st.dictionaries(
        st.sampled_from([*effective.JAVA_KEYS, "backend", "default_answer", "handler"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
        | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        max_size=6,
    )
)  # fmt: skip
def test_any_document(document):
    """Every key of the file is in effect, or is reported to have none, or is the handler's."""
    import yaml

    found = understand(yaml.safe_dump(document)) if document else understand(None)
    in_effect = {one.key for one in found.settings if one.source == FILE}
    told = in_effect | {item.key for item in found.ignored} | set(found.for_handler)
    assert set(document) - told <= {"torchrun", "backend"}  # sections
    assert isinstance(found.ignored, tuple)
    assert all(isinstance(item, Ignored) for item in found.ignored)
