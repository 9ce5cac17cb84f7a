"""What Java does with model-config.yaml, told before it does it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.model_config import validate


def told(text):
    return [(problem.severity, problem.key, problem.line) for problem in validate(text)]


GOOD = """\
# a comment
minWorkers: 1
maxWorkers: 4
batchSize: 8
maxBatchDelay: 50
responseTimeout: 60
deviceType: gpu
deviceIds: [0, 1]
parallelType: "pp"
torchrun:
  nproc-per-node: 2
  OMP_NUMBER_THREADS: 1
useJobTicket: true
backend:
  mode: shared
  max_batch_size: 32
  threads: auto
handler:
  profile: true
  anything: [1, {a: b}]
micro_batching: {micro_batch_size: 2}
pt2: {compile: {enable: true}}
"""


def test_a_good_file_has_no_problem():
    assert validate(GOOD) == []
    assert validate(GOOD.encode()) == []


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "null", "~"])
def test_an_empty_document_stops_the_server(text):
    (problem,) = validate(text)
    assert (problem.severity, problem.key) == ("error", "")
    assert "empty" in problem.message


@pytest.mark.parametrize("text", ["- a\n- b", "just text", "3"])
def test_not_a_mapping(text):
    (problem,) = validate(text)
    assert "no mapping" in problem.message
    assert problem.line == 1


@pytest.mark.parametrize(
    ("text", "line"), [("a: 1\nb: [1,\n", 3), ("a: 1\n b: 2\n", 2), ("a: 1\n---\nb: 2\n", 2), ("a: *x\n", 1)]
)
def test_not_yaml(text, line):
    (problem,) = validate(text)
    assert (problem.severity, problem.line) == ("error", line)
    assert "not YAML" in problem.message


@pytest.mark.parametrize("text", [b"\xff\xfe\xff", b"a: \x00", b"\x80: 1"])
def test_not_text(text):
    assert validate(text)[0].severity == "error"


@pytest.mark.parametrize(
    "text", ["a: !!python/object/apply:os.system [ls]", "a:\n  - !!python/name:os.system", "a: !mine 3"]
)
def test_tags_that_make_objects(text):
    (problem,) = validate(text)
    assert problem.severity == "error"
    assert "object of a program" in problem.message


@pytest.mark.parametrize(
    "line",
    [
        'batchSize: "8"',
        "batchSize: 8.0",
        "batchSize: true",
        "batchSize: 0",
        "batchSize: -1",
        "batchSize:",
        "batchSize: 2147483648",
        "maxBatchDelay: 5ms",
        "deviceType: tpu",
        "deviceType: 1",
        "deviceIds: 0",
        "deviceIds: [0, a]",
        "parallelType: dp",
        "torchrun: 2",
        'useVenv: "true"',
        "useVenv: 1",
    ],
)
def test_a_wrong_type_is_an_error_where_it_stands(line):
    key = line.split(":")[0]
    assert told(f"handler: {{}}\n{line}\n") == [("error", key, 2)]


def test_a_quoted_number_has_a_hint():
    (problem,) = validate('jobQueueSize: "100"')
    assert problem.message == ("jobQueueSize: expected an integer from 1, got '100'; TorchServe would ignore it")
    assert problem.hint == "write 100 without quotes"


def test_inside_torchrun():
    assert told("torchrun:\n  nnodes: one\n  nproc_per_node: 2\n") == [
        ("error", "torchrun.nnodes", 2),
        ("warning", "torchrun.nproc_per_node", 3),
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("asyncCommunication: true\nbatchSize: 2", "asyncCommunication"),
        ("asyncCommunication: true\ncontinuousBatching: true", "asyncCommunication"),
        ("asyncCommunication: true\nsequenceBatching: true\nsequenceMaxIdleMSec: 5", "asyncCommunication"),
        ("sequenceBatching: true", "sequenceBatching"),
        ("sequenceBatching: true\nsequenceMaxIdleMSec: 0", "sequenceBatching"),
        ("minWorkers: 3\nmaxWorkers: 2", "maxWorkers"),
        ("batchSize: 1\nbatchSize: 2", "batchSize"),
        ("{batchSize: 1, batchSize: 2}", "batchSize"),
        ("handler:\n  a: 1\n  a: 2", "handler.a"),
        ("1: 2", "1"),
    ],
)
def test_combinations_that_fail(text, key):
    problems = validate(text)
    assert [(problem.severity, problem.key) for problem in problems] == [("error", key)]


def test_combinations_that_work():
    assert validate("asyncCommunication: true\nbatchSize: 1\ncontinuousBatching: false") == []
    assert validate("sequenceBatching: true\nsequenceMaxIdleMSec: 60000") == []


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("batchsize: 4", "did you mean batchSize?"),
        ("batch_size: 4", "did you mean batchSize?"),
        ("max-batch-delay: 4", "did you mean maxBatchDelay?"),
        ("reponseTimeout: 4", "did you mean responseTimeout?"),
        ("maxBatchDelay: 0", "write maxBatchDelay: 1, the least that can be said"),
        ("minWorkers: 2", "set maxWorkers too"),
    ],
)
def test_warnings(text, hint):
    (problem,) = validate(text)
    assert (problem.severity, problem.line, problem.hint) == ("warning", 1, hint)


def test_aliases_that_multiply_take_no_time():
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    assert validate("\n".join(lines) + "\nbatchSize: *a39\n")[0].key == "batchSize"


def test_merge_keys_count():
    assert told("base: &b {batchSize: x}\n<<: *b\n") == [("error", "batchSize", 1)]


@given(st.text(alphabet="ab:-[]{}&*!|>'\"\n #1,?%@~<=", max_size=40) | st.binary(max_size=20))
def test_any_input_gives_a_list(text):
    """Whatever the file holds, the answer is a list of problems and never an exception."""
    assert isinstance(validate(text), list)
