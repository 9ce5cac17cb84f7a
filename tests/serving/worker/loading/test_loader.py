"""From the frontend's LOAD to a handler that can be called."""

from __future__ import annotations

import base64
import importlib.abc
import json
import sys
import textwrap
import uuid
import warnings
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from serving.protocol import Load, Parameter, Reply, Request
from serving.worker.answering.replies import reply_to
from serving.worker.answering.service import Service
from serving.worker.loading import loader
from serving.worker.loading.failures import ConfigError, HandlerError
from serving.worker.loading.loader import Model
from tests.serving.worker.frontend import METRICS, REST, bodies

Make = Callable[..., str]

CLASS = """
    class Handler:
        def initialize(self, context):
            self.context = context

        def handle(self, data, context):
            return [type(self).__name__ for _ in data]
"""
FUNCTIONS = """
    calls = []

    def handle(data, context):
        calls.append((data, context))
        return ["handle"] * len(data or [])

    def other(data, context):
        calls.append((data, context))
        return ["other"] * len(data or [])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield an archive's folder, where modules are found; they go with the test. This process stays without torch."""
    folder = tmp_path / "model"
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": {"modelName": "m", "modelVersion": "2.0"}}))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(sys.modules, "torch", None)
    known = set(sys.modules)
    yield folder
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def make(folder: Path) -> Make:
    """Write a handler and return the name of its module, which no other test has."""

    def write(source: str, name: str = "") -> str:
        name = name or f"handler_{uuid.uuid4().hex}"
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    return write


def load(folder: Path, handler: str | None, **fields: Any) -> Model:
    metrics = str(fields.pop("metrics", METRICS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchServe's package leaves a file open
        return loader.load(Load("m", str(folder), 8, handler, **fields), metrics)


class Parts:
    """A sink where nothing is streamed to."""

    def __init__(self) -> None:
        self.streamed: set[str] = set()

    def sendall(self, data: Any) -> None:
        raise AssertionError


def ask(model: Model, *values: Any) -> Reply:
    """Return the reply to a batch of requests with JSON bodies, or with bytes."""
    parameters = [
        Parameter("body", bytearray(value if isinstance(value, bytes) else json.dumps(value).encode()),
                  "" if isinstance(value, bytes) else "application/json")
        for value in values
    ]  # fmt: skip
    requests = [Request(f"id-{number}", REST, (parameter,)) for number, parameter in enumerate(parameters)]
    return reply_to(requests, Service(model, Parts()).answer(requests))


# ---- forms of the manifest's handler ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("{}", b"handle"),
        ("{}.py", b"handle"),
        ("some/folder/{}.py", b"handle"),
        ("/absolute/{}", b"handle"),
        ("{}:other", b"other"),
        ("{}.py:other", b"other"),
        ("some/folder/{}.py:other", b"other"),
        ("{}:", b"handle"),
    ],
)
def test_functions(folder: Path, make: Make, form: str, expected: bytes) -> None:
    name = make(FUNCTIONS)
    model = load(folder, form.format(name))
    assert sys.modules[name].calls == [(None, model.context)]  # it is called once when it is loaded
    assert bodies(ask(model, 1, 2)) == [expected] * 2
    assert model.handler is None
    assert model.entry is getattr(sys.modules[name], expected.decode())


@pytest.mark.parametrize("form", ["{}", "{}.py", "a/{}.py", "{}:missing", "{}.py:missing"])
def test_a_class(folder: Path, make: Make, form: str) -> None:
    """It is found also if the named function does not exist."""
    name = make(CLASS + "\n    from pathlib import Path as Imported\n")
    model = load(folder, form.format(name))
    assert bodies(ask(model, 1)) == [b"Handler"]
    assert model.handler.context is model.context


def test_a_function_beats_a_class(folder: Path, make: Make) -> None:
    """Even one that was merely imported."""
    helper = make("def handle(data, context): return [b'imported'] * len(data or [])")
    name = make(f"from {helper} import handle\n" + textwrap.dedent(CLASS))
    assert bodies(ask(load(folder, name), 1)) == [b"imported"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (CLASS + "\n    class Another: pass\n", "it has Another, Handler"),
        ("x = 1", "it has none"),
        ("from pathlib import Path", "it has none"),
    ],
)
def test_another_number_of_classes(folder: Path, make: Make, source: str, found: str) -> None:
    name = make(source)
    with pytest.raises(HandlerError) as raised:
        load(folder, f"{name}.py")
    assert raised.value.message == f"Expected only one class in the handler, or a function handle; {found}"
    assert raised.value.where == f"{name}.py"
    assert f"{name}.py:FUNCTION" in raised.value.hint


@pytest.mark.parametrize(("has", "lacks"), [("handle", "initialize"), ("initialize", "handle")])
def test_a_class_that_is_no_handler(folder: Path, make: Make, has: str, lacks: str) -> None:
    name = make(f"class Handler:\n    def {has}(self, *args): pass\n")
    with pytest.raises(HandlerError, match=f"^Expect {lacks} method in class Handler$"):
        load(folder, name)


@pytest.mark.parametrize("text", ["import no_such_module", "from json import no_such_name", "import no_such.inner"])
def test_what_the_handler_cannot_import_is_its_own_error(folder: Path, make: Make, text: str) -> None:
    """And no reason to look for a built-in handler of that name."""
    with pytest.raises(ImportError) as raised:
        load(folder, make(text))
    assert "no_such" in str(raised.value)
    assert raised.value.__context__ is None


@pytest.mark.parametrize("error", ["ValueError('x')", "TypeError('x')", "RuntimeError('x')", "SystemExit(3)"])
def test_what_the_handler_raises_is_not_hidden(folder: Path, make: Make, error: str) -> None:
    with pytest.raises(BaseException) as raised:  # noqa: PT011
        load(folder, make(f"raise {error}"))
    assert repr(raised.value) == error


def test_what_loading_a_function_raises(folder: Path, make: Make) -> None:
    with pytest.raises(ZeroDivisionError):
        load(folder, make("def handle(data, context):\n    1 / 0\n"))


@pytest.mark.parametrize("handler", ["no_such_handler", "no_such_handler.py:f", "no/such_handler.py", "no.such"])
def test_there_is_no_such_handler(folder: Path, make: Make, handler: str) -> None:
    make("", "beside")
    with pytest.raises(HandlerError) as raised:
        load(folder, handler)
    assert raised.value.message == (
        f"there is no handler {handler!r}: the archive has the modules beside.py, and no built-in handler has that name"
    )
    assert raised.value.where == "MAR-INF/MANIFEST.json"
    assert "--handler" in raised.value.hint


def test_an_archive_without_a_module(folder: Path) -> None:
    with pytest.raises(HandlerError, match="the archive has no module, and"):
        load(folder, "no_such_handler")


@pytest.mark.parametrize("handler", ["", ":f", "folder/", ".relative", "..", ".py"])
def test_what_is_no_name(folder: Path, handler: str) -> None:
    with pytest.raises(HandlerError) as raised:
        load(folder, handler)
    assert raised.value.where == "MAR-INF/MANIFEST.json"


def test_no_handler_at_all(folder: Path) -> None:
    with pytest.raises(HandlerError, match=r"^the manifest names no handler$"):
        load(folder, None)


def test_a_package_of_the_archive(folder: Path, make: Make) -> None:
    (folder / "package_of_handlers").mkdir()
    (folder / "package_of_handlers" / "inner.py").write_text(textwrap.dedent(FUNCTIONS))
    assert bodies(ask(load(folder, "package_of_handlers.inner:other"), 1)) == [b"other"]


def test_a_module_that_was_written_after_the_folder_was_looked_at(folder: Path, make: Make) -> None:
    """The folder is on the path of a process that has imported others from it."""
    make("", "first_of_all")
    with pytest.raises(HandlerError):
        load(folder, "comes_later")
    make(FUNCTIONS, "comes_later")
    assert bodies(ask(load(folder, "comes_later"), 1)) == [b"handle"]


# ---- built-in handlers -----------------------------------------------------------------------------------------------


@pytest.fixture
def with_torch() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torch")


def test_the_names_of_our_sdk(with_torch: None, tmp_path: Path) -> None:
    """With the module of the archive's name: it has one class, as the rules want it, and that is ours."""
    import handlers
    from handlers.builtin import TWINS

    for name, base in {name: getattr(handlers, kind) for name, kind in TWINS.items()}.items():
        for reference in (name, f"{name}.py"):
            module, function = loader.find_handler(reference, tmp_path)
            assert function is None
            handler, entry, initialize = loader.entry_point(module, function, name)
            assert isinstance(handler, base)
            assert type(handler).__name__ == base.__name__
            assert (entry, initialize) == (handler.handle, handler.initialize)
        assert name not in sys.modules


def test_the_archive_comes_first(folder: Path, make: Make) -> None:
    make(FUNCTIONS, "image_classifier")
    assert bodies(ask(load(folder, "image_classifier"), 1)) == [b"handle"]


def test_those_that_only_torchserve_has(with_torch: None, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, _ = loader.find_handler("densenet_handler", tmp_path)
    assert module.__name__ == "ts.torch_handler.densenet_handler"
    assert module.DenseNetHandler.__module__ == module.__name__


def test_a_built_in_handler_that_lacks_a_package(tmp_path: Path, with_torch: None) -> None:
    """The missing package is named; it is not reported as a missing handler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImportError, match="nvidia") as raised:
            loader.find_handler("dali_image_classifier", tmp_path)
    assert not isinstance(raised.value, HandlerError)


# ---- envelopes -------------------------------------------------------------------------------------------------------

ECHO = """
    calls = []

    def handle(data, context):
        calls.append(data)
        if data is None:
            return None
        return [{"got": row} for row in data]
"""


def content(reply: Reply) -> list[Any]:
    return [json.loads(body) for body in bodies(reply)]


def test_the_envelope_of_bodies(folder: Path, make: Make) -> None:
    model = load(folder, make(ECHO), envelope="body")
    assert content(ask(model, {"a": 1}, [2])) == [{"got": {"a": 1}}, {"got": [2]}]


def test_the_envelope_of_instances(folder: Path, make: Make) -> None:
    """The handler gets the instances of all requests in one list."""
    source = ECHO.replace('{"got": row}', "row.decode() if isinstance(row, bytes) else row")
    name = make(source)
    model = load(folder, name, envelope="json")
    encoded = {"b64": base64.b64encode(b"bytes").decode()}
    reply = ask(model, {"instances": [1, 2]}, {"instances": [encoded]}, {"instances": [3]})
    assert content(reply) == [{"predictions": [1, 2]}, {"predictions": ["bytes"]}, {"predictions": [3]}]
    assert sys.modules[name].calls == [None, [1, 2, b"bytes", 3]]
    # One without instances fails alone.
    reply = ask(model, {"instances": [1]}, {"instance": 2}, {"instances": [3]})
    assert [item.status for item in reply.items] == [200, 503, 200]


def test_the_envelope_of_kserve(folder: Path, make: Make) -> None:
    """TorchServe's looks at the first request only, so each one of a batch goes through it alone."""
    model = load(folder, make(ECHO), envelope="kserve")
    assert model.one_by_one
    reply = ask(model, {"instances": [1, 2]}, b'{"instances": ["x"]}', {"instances": [3]})
    assert content(reply) == [
        {"predictions": [{"got": 1}, {"got": 2}]},
        {"predictions": [{"got": "x"}]},
        {"predictions": [{"got": 3}]},
    ]


def test_the_second_envelope_of_kserve(folder: Path, make: Make) -> None:
    source = ECHO.replace('{"got": row}', 'row["data"]')
    model = load(folder, make(source), envelope="kservev2")

    def inputs(*numbers: int) -> dict[str, Any]:
        return {"inputs": [{"name": "x", "shape": [len(numbers)], "datatype": "INT64", "data": list(numbers)}]}

    reply = content(ask(model, {"id": "mine", **inputs(1, 2)}, json.dumps(inputs(3)).encode(), inputs(4)))
    assert [(one["id"], one["outputs"][0]["data"]) for one in reply] == [("mine", [1, 2]), ("id-1", [3]), ("id-2", [4])]
    assert all((one["model_name"], one["model_version"]) == ("m", "2.0") for one in reply)
    assert reply[0]["outputs"] == [{"name": "x", "datatype": "INT64", "data": [1, 2], "shape": [2]}]


def test_an_envelope_around_a_class(folder: Path, make: Make) -> None:
    assert bodies(ask(load(folder, make(CLASS), envelope="body"), 1, 2)) == [b"Handler"] * 2


@pytest.mark.parametrize("own", [True, False])
def test_a_handler_may_do_an_envelopes_work_itself(folder: Path, make: Make, own: bool) -> None:
    """It then gets whole batches, and the requests as they came."""
    source = textwrap.dedent(CLASS).replace("return [", "return [sorted(_) or ")
    source += "\n    own_envelopes = frozenset({'kservev2'})\n" if own else ""
    model = load(folder, make(source), envelope="kservev2")
    assert model.one_by_one is not own
    assert (model.entry == model.handler.handle) is own
    if own:
        assert content(ask(model, {"inputs": 1}, {"inputs": 2})) == [["body"], ["body"]]


@pytest.mark.parametrize("name", ["no_such_envelope", "a b"])
def test_there_is_no_such_envelope(folder: Path, make: Make, name: str) -> None:
    with pytest.raises(HandlerError, match="there is no envelope") as raised:
        load(folder, make(ECHO), envelope=name)
    assert raised.value.where == "service_envelope in config.properties"


# ---- the context -----------------------------------------------------------------------------------------------------


def test_the_context(folder: Path, make: Make) -> None:
    (folder / "model-config.yaml").write_text("handler:\n  answer: 42\n")
    manifest = {"model": {"modelName": "m", "configFile": "model-config.yaml"}}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    context = load(folder, make(ECHO), gpu_id=3, limit_max_image_pixels=False).context
    assert context.model_name == "m"
    assert context.manifest == manifest
    assert context.model_yaml_config == {"handler": {"answer": 42}}
    assert context.system_properties == {
        "model_dir": str(folder),
        "gpu_id": 3,
        "batch_size": 8,
        "server_name": "MMS",
        "server_version": "0.12.0",
        "limit_max_image_pixels": False,
    }
    assert context.metrics.model_name == "m"
    assert context.stopping_criteria is None


def test_no_manifest(folder: Path, make: Make) -> None:
    """A function of a workflow."""
    (folder / "MAR-INF" / "MANIFEST.json").unlink()
    context = load(folder, f"{make(FUNCTIONS)}.py:other").context
    assert (context.manifest, context.model_yaml_config) == (None, {})


def test_the_largest_batch_of_a_shared_process_is_its_own(folder: Path, make: Make) -> None:
    (folder / "c.yaml").write_text("backend:\n  mode: shared\n  max_batch_size: 64\n")
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": {"configFile": "c.yaml"}}))
    assert load(folder, make(ECHO)).context.system_properties["batch_size"] == 64


def test_a_handler_may_emit_metrics_when_it_is_initialized(folder: Path, make: Make, caplog: Any) -> None:
    caplog.set_level("INFO")
    source = """
        def handle(data, context):
            context.metrics.add_counter("Loads", 1)
            return data and [b""] * len(data)
    """
    load(folder, make(source))
    assert "[METRICS]Loads.Count:1|#ModelName:m,Level:Model|#type:COUNTER|#hostname:" in caplog.text


@pytest.mark.parametrize("text", [None, "", "nonsense: [", "model_metrics:\n  gauge:\n    - name: x\n"])
def test_metrics_that_cannot_be_used(
    folder: Path, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    """Java goes on without them; so the model is loaded, with the default ones."""
    path = tmp_path / "metrics.yaml"
    if text is not None:
        path.write_text(text)
    model = load(folder, make(ECHO), metrics=path)
    assert f"The metrics of {path} cannot be used" in caplog.text
    assert "gauge:PredictionTime" in model.context.metrics.cache_keys()


def test_no_metrics_named(folder: Path, make: Make) -> None:
    assert "gauge:PredictionTime" in load(folder, make(ECHO), metrics="").context.metrics.cache_keys()


class _Missing(importlib.abc.MetaPathFinder):
    """A finder that finds no package `ts`."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] == "ts":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def test_torchserves_package_is_missing(folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a virtual environment of a model that does not see the server's packages."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "ts"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Missing(), *sys.meta_path])
    with pytest.raises(HandlerError, match="cannot be imported by") as raised:
        load(folder, make(ECHO))
    assert "pip install torchserve" in raised.value.hint


# ---- what stands in the way ------------------------------------------------------------------------------------------


def test_a_wrong_configuration_is_told_before_the_handler_is_imported(folder: Path, make: Make) -> None:
    (folder / "c.yaml").write_text("backend:\n  mode: both\n")
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": {"configFile": "c.yaml"}}))
    name = make(ECHO)
    with pytest.raises(ConfigError):
        load(folder, name)
    assert name not in sys.modules


def test_the_folder_has_gone(folder: Path) -> None:
    with pytest.raises(HandlerError, match="no handler 'no_such_handler'"):
        load(folder / "gone", "no_such_handler")
