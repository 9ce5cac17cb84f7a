"""The reports of a model that cannot be loaded."""

from __future__ import annotations

import importlib.util
import textwrap
from pathlib import Path

import pytest

from serving.worker.loading import failures
from serving.worker.loading.failures import ConfigError, HandlerError, WorkerError


def raised(file: Path, source: str) -> BaseException:
    """Return what importing a file raises, with the traceback that it then has."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return caught.value


def lines(error: BaseException, folder: Path) -> list[str]:
    """Return the summary, and the traceback that stands above it."""
    text = failures.block("m", error, folder)
    assert text.endswith("\n\n")
    traceback, title, rest = text.removesuffix("\n\n").rpartition("Failed to load model m: ")
    return [*(title + rest).splitlines(), *traceback.splitlines()]


FUNCTION = """
    def initialize():
        raise RuntimeError("the first line\\nthe second")

    initialize()
"""


def test_an_exception_of_the_archive(tmp_path: Path) -> None:
    error = raised(tmp_path / "handler.py", FUNCTION)
    text = lines(error, tmp_path)
    assert text[:3] == [
        "Failed to load model m: RuntimeError: the first line",
        "  in handler.py:3 (initialize)",
        "Traceback (most recent call last):",
    ]
    assert text[-2:] == ["RuntimeError: the first line", "the second"]
    assert failures.reply(error, tmp_path) == (500, "RuntimeError: the first line (handler.py:3)")


def test_the_archive_may_be_a_link(tmp_path: Path) -> None:
    link = tmp_path / "link"
    (tmp_path / "real").mkdir()
    link.symlink_to(tmp_path / "real")
    error = raised(tmp_path / "real" / "sub" / "handler.py", FUNCTION)
    assert lines(error, link)[1] == "  in sub/handler.py:3 (initialize)"


def test_the_place_is_the_innermost_of_the_archive(tmp_path: Path) -> None:
    source = """
        import json
        def initialize():
            json.loads("{")
        initialize()
    """
    error = raised(tmp_path / "handler.py", source)
    assert lines(error, tmp_path)[:2] == [
        "Failed to load model m: JSONDecodeError: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)",
        "  in handler.py:4 (initialize)",
    ]


def test_nothing_of_the_archive_was_involved(tmp_path: Path) -> None:
    error = raised(tmp_path / "elsewhere.py", FUNCTION)
    assert lines(error, tmp_path / "archive")[1] == f"  in {tmp_path / 'elsewhere.py'}:3 (initialize)"
    assert lines(KeyError("x"), tmp_path)[:2] == ["Failed to load model m: KeyError: 'x'", "KeyError: 'x'"]


def test_the_copy_of_the_sdk_in_an_archive_is_not_its_authors(tmp_path: Path) -> None:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "base.py").write_text("def load():\n    raise RuntimeError('no weights')\n")
    source = f"""
        import importlib.util
        spec = importlib.util.spec_from_file_location("base", {str(tmp_path / "handlers" / "base.py")!r})
        base = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(base)
        base.load()
    """
    error = raised(tmp_path / "handler.py", source)
    assert lines(error, tmp_path)[1] == "  in handler.py:6 (<module>)"


def test_the_first_of_a_chain_of_exceptions_is_the_cause(tmp_path: Path) -> None:
    source = """
        def initialize():
            try:
                try:
                    {}["weights"]
                except KeyError:
                    raise ValueError("while reading")
            except ValueError as error:
                raise RuntimeError("cannot initialize") from error
        initialize()
    """
    error = raised(tmp_path / "handler.py", source)
    text = lines(error, tmp_path)
    assert text[:2] == ["Failed to load model m: KeyError: 'weights'", "  in handler.py:5 (initialize)"]
    assert text.count("Traceback (most recent call last):") == 3
    assert text[-1] == "RuntimeError: cannot initialize"


def test_a_suppressed_cause_is_none(tmp_path: Path) -> None:
    source = """
        try:
            {}["x"]
        except KeyError:
            raise RuntimeError("what counts") from None
    """
    assert (
        lines(raised(tmp_path / "handler.py", source), tmp_path)[0]
        == "Failed to load model m: RuntimeError: what counts"
    )


def test_an_error_of_ours_tells_of_its_cause_itself(tmp_path: Path) -> None:
    source = """
        from serving.worker.loading.failures import ConfigError
        try:
            int("x")
        except ValueError as error:
            try:
                place = "model-config.yaml:1"
                raise ConfigError(f"it cannot be read: {error}", where=place, hint="write it anew") from error
            except ConfigError as error:
                raise RuntimeError from error
    """
    error = raised(tmp_path / "handler.py", source)
    text = lines(error, tmp_path)
    assert text[:3] == [
        "Failed to load model m: it cannot be read: invalid literal for int() with base 10: 'x'",
        "  in model-config.yaml:1",
        "  hint: write it anew",
    ]
    assert sum("ValueError" in line for line in text) == 1


def test_exceptions_in_a_circle() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert failures.first_cause(one) is other


def test_a_syntax_error(tmp_path: Path) -> None:
    error = raised(tmp_path / "handler.py", "x = 1\ndef handle(:\n    pass\n")
    text = lines(error, tmp_path)
    assert text[0].startswith("Failed to load model m: SyntaxError: ")
    assert text[1:3] == ["  in handler.py:2", "  hint: correct the file and build the archive again"]


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.inner"])
def test_a_module_that_is_missing(tmp_path: Path, name: str) -> None:
    text = lines(raised(tmp_path / "handler.py", f"\n\nimport {name}\n"), tmp_path)
    assert text[0] == "Failed to load model m: ModuleNotFoundError: No module named 'no_such_package'"
    assert text[1] == "  in handler.py:3 (<module>)"
    assert text[2].startswith("  hint: is no_such_package installed where the server runs")


def test_our_own_errors_say_what_is_to_be_done(tmp_path: Path) -> None:
    error = HandlerError("there is none", where="MAR-INF/MANIFEST.json", hint="build it with --handler")
    assert lines(error, tmp_path)[:3] == [
        "Failed to load model m: there is none",
        "  in MAR-INF/MANIFEST.json",
        "  hint: build it with --handler",
    ]
    assert failures.reply(error, tmp_path) == (500, "there is none (MAR-INF/MANIFEST.json)")
    assert failures.reply(ConfigError("it is wrong"), tmp_path) == (500, "it is wrong")


def test_the_hint_of_an_error_that_has_one(tmp_path: Path) -> None:
    class LoadError(RuntimeError):
        hint = "save them again"

    wrapped = RuntimeError("all of it")
    wrapped.__cause__ = LoadError("weights are wrong")
    assert lines(wrapped, tmp_path)[:2] == [
        "Failed to load model m: LoadError: weights are wrong",
        "  hint: save them again",
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 507),
        (RuntimeError("CUDA error: out of memory"), 507),
        (RuntimeError("cuda"), 500),
        (ValueError("CUDA"), 500),
        (OSError(2, "No such file"), 500),
    ],
)
def test_the_code_of_the_answer(tmp_path: Path, error: BaseException, code: int) -> None:
    assert failures.reply(error, tmp_path)[0] == code
    assert any("backend: {mode: shared}" in line for line in lines(error, tmp_path)) == (code == 507)


@pytest.mark.parametrize(("error", "text"), [(MemoryError(), "MemoryError"), (ValueError("  \n"), "ValueError")])
def test_an_exception_without_a_text(tmp_path: Path, error: BaseException, text: str) -> None:
    assert lines(error, tmp_path)[0] == f"Failed to load model m: {text}"


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_that_cannot_tell_its_text(tmp_path: Path) -> None:
    assert lines(Mute(), tmp_path)[0] == "Failed to load model m: Mute"
    assert failures.reply(Mute(), tmp_path) == (500, "Mute")


def test_our_errors_are_of_one_kind() -> None:
    assert issubclass(ConfigError, WorkerError)
    assert issubclass(HandlerError, WorkerError)
