"""The section `optimize:`, checked before a worker reads it."""

import pytest
import yaml

from archive_tool.config.schema import validate
from handlers import LoadError
from handlers.optimization import settings


def told(text):
    return [(problem.severity, problem.key, problem.line) for problem in validate(text)]


GOOD = """\
startupTimeout: 600
optimize:
  dtype: bfloat16
  channels_last: true
  compile: {backend: inductor, mode: max-autotune, dynamic: null}
  freezing: true
  cuda_graphs: false
  tolerance: 0.02
"""


def test_a_good_section():
    assert validate(GOOD) == []
    for section in ("", "null", "false", "{}", "{compile: false}", "{tolerance: null}"):
        assert validate(f"batchSize: 1\noptimize: {section}\n") == []


WRONG = [
    ("dtype: int8", "dtype", "write one of float32, float16, bfloat16"),
    ("dtype: [bfloat16]", "dtype", None),
    ("dtype:", "dtype", None),
    ("channels_last: 1", "channels_last", "write true or false"),
    ('freezing: "true"', "freezing", "write true without quotes"),
    ("cuda_graphs:", "cuda_graphs", None),
    ("compile: 3", "compile", None),
    ('compile: ""', "compile", None),
    ("compile: {backend: 3}", "compile.backend", "write the name of a backend, such as inductor"),
    ('compile: {backend: ""}', "compile.backend", None),
    ("compile: {mode: fast}", "compile.mode", None),
    ("compile: {dynamic: auto}", "compile.dynamic", "write true or false"),
    ("compile: {modes: default}", "compile.modes", "did you mean optimize.compile.mode?"),
    ("compile: {fullgraph: true}", "compile.fullgraph", "the settings are backend, mode, dynamic"),
    ("tolerance: 0", "tolerance", "write a part of the largest output, from 0.0000001 to 1, such as 0.02"),
    ("tolerance: 2", "tolerance", None),
    ("tolerance: .nan", "tolerance", None),
    ("tolerance: true", "tolerance", None),
    ("channel_last: true", "channel_last", "did you mean optimize.channels_last?"),
    ("precision: 16", "precision", "the settings are dtype, channels_last, compile, freezing, cuda_graphs, tolerance"),
    ("cuda_graphs: true", "cuda_graphs", "write compile: true beside it"),
    ("{compile: eager, freezing: true}", "freezing", "remove it, or write compile: inductor"),
    ("{compile: eager, cuda_graphs: true}", "cuda_graphs", None),
    ("{compile: {backend: eager, mode: default}}", "compile.mode", None),
]


@pytest.mark.parametrize(("line", "key", "hint"), WRONG)
def test_what_is_wrong(line, key, hint):
    begin = f"optimize: {line}" if line.startswith("{") else f"optimize:\n  {line}"
    (problem,) = validate(f"startupTimeout: 600\n{begin}\n")
    line_number = 2 if line.startswith("{") else 3
    assert (problem.severity, problem.key, problem.line) == ("error", f"optimize.{key}", line_number)
    assert problem.message.startswith(f"optimize.{key}")
    assert problem.hint
    assert hint is None or problem.hint == hint


def test_the_words_on_a_wrong_value():
    (problem,) = validate("optimize: {dtype: int8}")
    assert problem.message == "optimize.dtype: expected one of float32, float16, bfloat16, got 'int8'"
    (problem,) = validate("optimize: {compile: {dynamic: auto}, dtype: bfloat16}\nstartupTimeout: 9")
    assert problem.message == "optimize.compile.dynamic: expected true or false, got 'auto'"


@pytest.mark.parametrize("value", ["true", "bfloat16", "[dtype]", "3"])
def test_it_is_a_mapping(value):
    (problem,) = validate(f"batchSize: 1\noptimize: {value}\n")
    assert (problem.severity, problem.key, problem.line) == ("error", "optimize", 2)
    assert problem.hint == "write an indented line such as dtype: bfloat16"


@pytest.mark.parametrize("name", ["optimise", "Optimize", "optimizer"])
def test_a_misspelt_section(name):
    (problem,) = validate(f"batchSize: 1\n{name}: {{dtype: bfloat16}}\n")
    assert (problem.severity, problem.key, problem.hint) == ("warning", name, "did you mean optimize?")


def test_compiling_takes_time_at_the_start():
    (problem,) = validate("optimize:\n  compile: true\n")
    assert (problem.severity, problem.key, problem.line) == ("warning", "optimize.compile", 2)
    assert problem.hint == "write a line such as startupTimeout: 600"


def test_freezing_needs_no_compiler():
    assert told("optimize:\n  freezing: true\n") == []


@pytest.mark.parametrize(
    ("pt2", "twice"),
    [
        ("inductor", True),
        ("{}", True),
        ("{backend: inductor}", True),
        ("{compile: true}", True),
        ("{compile: {enable: true}}", True),
        ("{compile: {}}", True),
        ("{compile: {enable: false}}", False),
        ("{compile: false}", False),
        ("{export: {aot_compile: false}}", False),
        ("false", False),
        ("", False),
    ],
)
def test_torch_compile_is_asked_for_once(pt2, twice):
    text = f"startupTimeout: 9\noptimize: {{compile: true}}\npt2: {pt2}\n"
    assert told(text) == ([("error", "optimize.compile", 2)] if twice else [])
    assert refused(text) is twice


def refused(text):
    try:
        settings.read(yaml.safe_load(text))
    except LoadError:
        return True
    return False


@pytest.mark.parametrize("line", [line for line, *_ in WRONG])
def test_the_handlers_refuse_the_same(line):
    assert refused(f"optimize: {line}" if line.startswith("{") else f"optimize:\n  {line}")


def test_the_handlers_take_what_is_good():
    assert not refused(GOOD)
