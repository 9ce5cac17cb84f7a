"""What Java does with model-config.yaml, reported before it does it."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.config import backend_keys
from archive_tool.config.schema import JAVA_KEYS, validate


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
  mode: dedicated
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


SHARED = """\
minWorkers: 1
maxWorkers: 16
batchSize: 4
continuousBatching: false
sequenceMaxIdleMSec: 0
backend:
  mode: shared
  max_batch_size: 32
  max_batch_delay_ms: 0.5
  processes: 2
  threads: 4
  isolate_errors: false
  pipeline: true
  warm_up: false
"""


def test_a_good_backend():
    assert validate(SHARED) == []
    assert validate("backend: {}") == []
    for value in (0, 2, 60000, 0.0):
        assert validate(f"backend: {{mode: shared, max_batch_delay_ms: {value}}}") == []
    for key, most in (("max_batch_size", 4096), ("processes", 256), ("threads", 64)):
        assert validate(f"backend: {{mode: shared, {key}: {most}}}") == []


@pytest.mark.parametrize(
    "line",
    [
        "mode: Shared",
        "mode: off",
        "mode: [shared]",
        "mode:",
        "max_batch_size: 0",
        "max_batch_size: 4097",
        "max_batch_size: 8.0",
        "max_batch_size: true",
        'max_batch_size: "8"',
        "max_batch_delay_ms: -1",
        "max_batch_delay_ms: 60001",
        "max_batch_delay_ms: .nan",
        "max_batch_delay_ms: .inf",
        "max_batch_delay_ms: false",
        "max_batch_delay_ms: 5ms",
        "processes: 0",
        "processes: 257",
        "threads: 0",
        "threads: all",
        "threads: 1.5",
        "threads: true",
        "threads: [auto]",
        "isolate_errors: 1",
        'pipeline: "true"',
        "warm_up: strict",
    ],
)
def test_a_wrong_value_in_backend(line):
    key = line.split(":")[0]
    mode = "" if key == "mode" else "  mode: shared\n"
    (problem,) = validate(f"handler: {{}}\nbackend:\n{mode}  {line}\n")
    assert (problem.severity, problem.key, problem.line) == ("error", f"backend.{key}", 4 if mode else 3)
    assert problem.message.startswith(f"backend.{key}: expected ")
    assert problem.hint


def test_the_words_on_a_wrong_value_in_backend():
    (problem,) = validate('backend: {mode: shared, max_batch_size: "8"}')
    assert problem.message == "backend.max_batch_size: expected an integer from 1 to 4096, got '8'"
    assert problem.hint == "write 8 without quotes"
    (problem,) = validate("backend: {mode: Shared}")
    assert (problem.message, problem.hint) == (
        "backend.mode: expected dedicated or shared, got 'Shared'",
        "write dedicated or shared",
    )


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("maxBatchSize", "max_batch_size"),
        ("batch_size", "max_batch_size"),
        ("max_batch_delay", "max_batch_delay_ms"),
        ("maxBatchDelay", "max_batch_delay_ms"),
        ("process", "processes"),
        ("thread", "threads"),
        ("isolate-errors", "isolate_errors"),
        ("pipelining", "pipeline"),
        ("warmup", "warm_up"),
    ],
)
def test_an_unknown_key_of_backend_is_an_error(key, meant):
    (problem,) = validate(f"backend:\n  {key}: 4\n")
    assert (problem.severity, problem.key, problem.line) == ("error", f"backend.{key}", 2)
    assert problem.hint == f"did you mean backend.{meant}?"


@pytest.mark.parametrize("key", ["device", "1", "yes", "null", "2001-01-01"])
def test_without_a_near_miss_the_settings_are_listed(key):
    (problem,) = validate(f"backend:\n  {key}: 4\n")
    assert problem.severity == "error"
    assert problem.key.startswith("backend.")
    assert problem.hint == (
        "the settings are mode, max_batch_size, max_batch_delay_ms, processes, threads, isolate_errors, pipeline, "
        "warm_up, retry"
    )


@pytest.mark.parametrize("value", ["", "shared", "[mode, shared]", "true", "3", "!!set {mode}", "0x" + "f" * 90])
def test_backend_is_a_mapping(value):
    (problem,) = validate(f"batchSize: 1\nbackend: {value}\n")
    assert (problem.severity, problem.key, problem.line) == ("error", "backend", 2)
    assert "expected a mapping of settings" in problem.message
    assert problem.hint


@pytest.mark.parametrize(
    ("lines", "others"),
    [
        ("asyncCommunication: true", ["asyncCommunication"]),
        ("continuousBatching: true", ["continuousBatching"]),
        ("sequenceBatching: true\nsequenceMaxIdleMSec: 5", ["sequenceBatching", "sequenceMaxIdleMSec"]),
        ("sequenceMaxIdleMSec: 5", ["sequenceMaxIdleMSec"]),
        ("parallelType: PP", ["parallelType"]),
        ("parallelType: custom", ["parallelType"]),
        ("parallelType: tp\ntorchrun: {nproc-per-node: 2}", ["parallelType", "torchrun"]),
        ("torchrun: {}", ["torchrun"]),
    ],
)
def test_what_a_shared_process_cannot_serve(lines, others):
    problems = validate(f"backend:\n  pipeline: true\n  mode: shared\n{lines}\n")
    assert [(problem.severity, problem.key, problem.line) for problem in problems] == [
        ("error", "backend.mode", 3) for _ in others
    ]
    for problem, other in zip(problems, others, strict=True):
        assert f"shared and {other} exclude each other" in problem.message
        assert problem.hint == f"remove {other}, or write mode: dedicated"
    assert validate(f"backend:\n  mode: dedicated\n{lines}\n") == []


def test_a_value_that_java_ignores_excludes_nothing():
    assert told("backend: {mode: shared}\ncontinuousBatching: 1\nparallelType: none\n") == [
        ("error", "continuousBatching", 2),
        ("error", "parallelType", 3),
    ]


@pytest.mark.parametrize("key", [key for key, row in backend_keys.KEYS.items() if row.shared_only])
def test_settings_of_shared_processes_need_the_mode(key):
    value = "true" if key == "pipeline" else "4"
    for mode, line in (("", 2), ("  mode: dedicated\n", 3)):
        (problem,) = validate(f"backend:\n{mode}  {key}: {value}\n")
        assert (problem.severity, problem.key, problem.line) == ("warning", f"backend.{key}", line)
        assert problem.message == f"backend.{key} has no effect without mode: shared"


def test_backend_in_odd_places():
    assert told("backend: {mode: shared, mode: dedicated}\n") == [("error", "backend.mode", 1)]
    assert told("backend: {mode: shared}\nbackend:\n  threads: 0\n") == [
        ("error", "backend", 2),
        ("error", "backend.threads", 3),
    ]
    assert told("x: &x {backend: {threads: 0}}\nbatchSize: 1\n<<: *x\n") == [("error", "backend.threads", 1)]
    assert told("x: &x {threads: 0}\nbackend:\n  <<: *x\n  mode: shared\n") == [("error", "backend.threads", 1)]
    assert told("backend: &b\n  mode: *b\n") == [("error", "backend.mode", 2)]


@pytest.mark.parametrize("name", ["backends", "Backend", "back-end"])
def test_a_misspelt_section(name):
    (problem,) = validate(f"batchSize: 1\n{name}: {{mode: shared}}\n")
    assert (problem.severity, problem.key, problem.line) == ("warning", name, 2)
    assert problem.hint == "did you mean backend?"


@pytest.mark.parametrize("value", ['!!int ""', '!!float ""', "!!bool maybe", "!!timestamp today", "!!int [1]"])
def test_values_that_their_tags_do_not_fit(value):
    for text in (f"backend: {{threads: {value}}}", f"batchSize: {value}"):
        (problem,) = validate(text)
        assert "not YAML" in problem.message


@pytest.mark.parametrize("text", ["batchSize: {}", "deviceIds: [1, {}, a]", "backend: {{processes: {}, mode: shared}}"])
def test_a_number_of_thousands_of_digits(text):
    (problem,) = validate(text.format("0x" + "f" * 5000))
    assert problem.severity == "error"


def test_aliases_that_multiply_take_no_time():
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    assert validate("\n".join(lines) + "\nbatchSize: *a39\n")[0].key == "batchSize"


def test_merge_keys_count():
    assert told("base: &b {batchSize: x}\n<<: *b\n") == [("error", "batchSize", 1)]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.text(max_size=8)
    | st.sampled_from(["shared", "dedicated", "auto", 1, 0, 4096, -1])
)
KEYS = st.sampled_from([*backend_keys.KEYS, "batch_size", "mod"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3))
OTHERS = st.dictionaries(st.sampled_from(sorted(JAVA_KEYS)), st.just(True) | VALUES, max_size=3)


@given(st.dictionaries(KEYS | SCALARS, VALUES, max_size=5) | VALUES, OTHERS)
def test_any_backend_gives_problems_that_can_be_acted_on(section, others):
    """Whatever stands in the section: no exception, a known severity, a line of the file and a hint for each."""
    text = yaml.safe_dump({**others, "backend": section})
    for problem in validate(text):
        assert problem.severity in ("error", "warning")
        if problem.key.split(".")[0] == "backend":
            assert 1 <= problem.line <= text.count("\n")
            assert problem.message
            assert problem.hint


@given(st.text(alphabet="ab:-[]{}&*!|>'\"\n #1,?%@~<=", max_size=40))
def test_any_text_in_backend_gives_a_list(text):
    for start in ("backend: ", "backend:\n  mode: shared\n  ", "backend: {threads: "):
        assert isinstance(validate(start + text), list)


@given(st.text(alphabet="ab:-[]{}&*!|>'\"\n #1,?%@~<=", max_size=40) | st.binary(max_size=20))
def test_any_input_gives_a_list(text):
    """Whatever the file holds, the answer is a list of problems and never an exception."""
    assert isinstance(validate(text), list)


def test_merge_keys():
    assert validate("a: &a {batchSize: 4}\nhandler: {<<: *a, x: 1}\n") == []


def test_merge_keys_that_multiply():
    """Each mapping merges the one before nine times: PyYAML would copy 9**12 settings."""
    lines = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 13)]
    (problem,) = validate("\n".join(lines))
    assert problem.severity == "error"
    assert "merge keys make too many settings" in problem.message
    (problem,) = validate("x: 1\na: &a {<<: *a}")
    assert (problem.severity, problem.line) == ("error", 2)
