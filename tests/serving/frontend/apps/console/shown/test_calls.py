"""The same call elsewhere: what is shown is what works. tests/integration/test_console.py runs it."""

from __future__ import annotations

import ast
import shlex

import pytest

from serving.frontend.apps.console.shown.calls import calls, torchmar

_AT = "http://127.0.0.1:8080"


def test_a_file() -> None:
    found = calls(_AT, "mnist", None, "7 0.png", "image/png", None, keyed=False)
    assert found.curl == "curl -H 'Content-Type: image/png' http://127.0.0.1:8080/predictions/mnist -T '7 0.png'"
    assert "Path('7 0.png').read_bytes()" in found.python
    assert found.torchmar == "torchmar predict mnist '7 0.png' --inference http://127.0.0.1:8080"


def test_a_text_that_is_typed() -> None:
    found = calls(_AT, "m", "1.0", "input.txt", "text/plain", "@it's", keyed=False)
    assert "--data-raw" in found.curl, "curl would look for a file"
    assert found.torchmar.startswith("printf %s '@it'\"'\"'s' | torchmar predict m - ")
    long = calls(_AT, "m", None, "input.txt", "text/plain", "x" * 5000, keyed=False)
    assert "-T input.txt" in long.curl


def test_a_command_with_options() -> None:
    found = torchmar(("bench", "m", "--input"), ["--rate", "20"], _AT, "1.0", "7 0.png", "image/png", None)
    assert found == f"torchmar bench m --input '7 0.png' --rate 20 --inference {_AT} --version 1.0"


def test_a_server_that_asks_for_keys() -> None:
    found = calls(_AT, "m", None, "a", "", None, keyed=True)
    assert 'curl -H "Authorization: Bearer $TORCHMAR_TOKEN" http' in found.curl
    assert 'token=os.environ["TORCHMAR_TOKEN"]' in found.python


def test_a_unix_socket() -> None:
    found = calls("unix:/run/a.sock", "m", None, "a", "", None, keyed=False)
    assert found.curl == "curl --unix-socket /run/a.sock http://localhost/predictions/m -T a"


@pytest.mark.parametrize("text", ["a'b\"c", "$(rm x)", "`x`", "\\", "ünï\n"])
@pytest.mark.parametrize("name", ["m", "a b", "x'y", "ü"])
def test_nothing_of_a_name_or_a_text_is_run(name: str, text: str) -> None:
    found = calls(_AT, name, "1.0", "input.txt", "text/plain", text, keyed=True)
    assert shlex.split(found.curl)[-1] == text
    assert shlex.split(found.torchmar)[1:3] == ["%s", text]
    ast.parse(found.python)
