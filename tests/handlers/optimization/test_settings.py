"""The sections `optimize:` and `pt2:` as they are read."""

import copy
import subprocess
import sys

import pytest

from handlers import LoadError
from handlers.optimization.settings import Compile, Optimization, compile_options, read


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"dtype": "bfloat16"}, Optimization(dtype="bfloat16")),
        ({"dtype": "float32"}, Optimization()),
        ({"channels_last": True}, Optimization(channels_last=True)),
        ({"compile": True}, Optimization(compile=Compile("inductor"))),
        ({"compile": False, "channels_last": False}, Optimization()),
        ({"compile": "eager"}, Optimization(compile=Compile("eager"))),
        ({"compile": {}}, Optimization(compile=Compile("inductor"))),
        (
            {"compile": {"backend": "inductor", "mode": "max-autotune", "dynamic": True}},
            Optimization(compile=Compile("inductor", "max-autotune", True)),
        ),
        ({"compile": True, "freezing": True}, Optimization(compile=Compile(), freezing=True)),
        ({"compile": True, "cuda_graphs": True}, Optimization(compile=Compile(), cuda_graphs=True)),
        ({"dtype": "float16", "tolerance": 0.5}, Optimization(dtype="float16", tolerance=0.5)),
        ({"tolerance": 1}, Optimization(tolerance=1.0)),
    ],
)
def test_the_section(section, expected):
    assert read({"optimize": section}) == expected


@pytest.mark.parametrize(
    "config", [None, {}, {"optimize": None}, {"optimize": False}, {"optimize": {}}, {"pt2": "eager"}]
)
def test_no_section(config):
    assert read(config) is None


@pytest.mark.parametrize(
    ("section", "message", "hint"),
    [
        (True, "optimize in model-config.yaml is True", "write lines such as dtype"),
        ("bfloat16", "optimize in model-config.yaml is 'bfloat16'", "the settings are dtype"),
        ({"dtyp": "bfloat16"}, "optimize.dtyp in model-config.yaml is no setting", "the settings are dtype"),
        ({1: 2}, "optimize.1 in model-config.yaml is no setting", "the settings are dtype"),
        ({"dtype": "int8"}, "optimize.dtype in model-config.yaml is 'int8'", "float32, float16, bfloat16"),
        ({"dtype": ["bfloat16"]}, "optimize.dtype", "write one of"),
        ({"dtype": None}, "optimize.dtype", "write one of"),
        ({"channels_last": "yes"}, "optimize.channels_last", "true or false"),
        ({"freezing": 1}, "optimize.freezing", "true or false"),
        ({"cuda_graphs": None}, "optimize.cuda_graphs", "true or false"),
        ({"compile": 3}, "optimize.compile in model-config.yaml is 3", "the name of a backend"),
        ({"compile": ""}, "optimize.compile in", "the name of a backend"),
        ({"compile": {"fullgraph": True}}, "optimize.compile.fullgraph", "backend, mode, dynamic"),
        ({"compile": {"backend": 3}}, "optimize.compile.backend", "inductor"),
        ({"compile": {"mode": "fast"}}, "optimize.compile.mode", "reduce-overhead"),
        ({"compile": {"dynamic": "auto"}}, "optimize.compile.dynamic", "true or false"),
        ({"tolerance": 0}, "optimize.tolerance", "0.02"),
        ({"tolerance": 1.5}, "optimize.tolerance", "0.02"),
        ({"tolerance": float("nan")}, "optimize.tolerance", "0.02"),
        ({"tolerance": True}, "optimize.tolerance", "0.02"),
        ({"tolerance": "0.1"}, "optimize.tolerance", "0.02"),
        ({"cuda_graphs": True}, "optimize.cuda_graphs needs optimize.compile", "compile: true"),
        ({"compile": "eager", "freezing": True}, "optimize.freezing is for the backend inductor", "remove it"),
        ({"compile": "eager", "cuda_graphs": True}, "optimize.cuda_graphs is for the backend inductor", "remove it"),
        ({"compile": {"backend": "eager", "mode": "default"}}, "compile.mode .* the backend is eager", "remove it"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(section, message, hint):
    with pytest.raises(LoadError, match=message) as caught:
        read({"optimize": section})
    assert hint in str(caught.value)


def test_torch_compile_is_asked_for_in_one_place():
    with pytest.raises(LoadError, match=r"model-config\.yaml: optimize\.compile and pt2 both ask for torch\.compile"):
        read({"optimize": {"compile": True}, "pt2": {"compile": {"enable": True}}})
    assert read({"optimize": {"compile": True}, "pt2": {"compile": {"enable": False}}}) is not None
    assert read({"optimize": {"dtype": "bfloat16"}, "pt2": "eager"}) is not None


def test_the_tolerance_goes_with_the_dtype():
    limits = {name: read({"optimize": {"dtype": name}}).limit for name in ("float32", "float16", "bfloat16")}
    assert limits == {"float32": 1e-3, "float16": 0.01, "bfloat16": 0.05}
    assert read({"optimize": {"dtype": "bfloat16", "tolerance": 0.02}}).limit == 0.02


def test_the_words_for_it():
    everything = {"dtype": "bfloat16", "channels_last": True, "compile": True, "freezing": True, "cuda_graphs": True}
    assert read({"optimize": everything}).describe() == "bfloat16, channels_last, inductor, freezing, CUDA graphs"
    assert Optimization(compile=Compile(mode="max-autotune", dynamic=False)).describe() == (
        "inductor (mode=max-autotune, dynamic=False)"
    )
    assert Optimization().describe() == "nothing"


# ---- pt2 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "options"),
    [
        (None, None),
        (False, None),
        ("inductor", {"backend": "inductor"}),
        ({"backend": "eager", "mode": "default"}, {"backend": "eager", "mode": "default"}),
        ({"compile": {"enable": True, "backend": "eager"}}, {"backend": "eager"}),
        ({"compile": {"enable": True}}, {}),
        ({"compile": {"enable": False, "backend": "eager"}}, None),
        ({"compile": True}, {}),
        ({"export": {"aot_compile": False}}, None),
        ({"export": {"aot_compile": True}}, None),
    ],
)
def test_the_forms_of_the_section(section, options):
    config = {"pt2": section}
    before = copy.deepcopy(config)
    assert compile_options(config) == options
    assert config == before


def test_no_section_pt2():
    assert compile_options({}) is None
    assert compile_options(None) is None


def test_what_is_not_understood():
    with pytest.raises(LoadError, match="pt2 in model-config"):
        compile_options({"pt2": 3})
    with pytest.raises(LoadError, match=r"pt2\.compile"):
        compile_options({"pt2": {"compile": "x"}})


def test_it_is_asked_without_torch():
    code = "import sys, handlers.optimization.settings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
