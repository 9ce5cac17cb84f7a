from __future__ import annotations

import json
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks import pretrained
from benchmarks.serving_bench import turns
from benchmarks.serving_bench.contenders import Contender

TINY_GPT = {"n_embd": 16, "n_layer": 1, "n_head": 2}
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def test_it_has_what_was_asked_for() -> None:
    usual = turns.parse(pretrained.COMPARISON, ["--driver", "bundled"])
    assert usual.connections == (1, 8, 32)
    assert usual.contenders[0] == "torchserve"  # ratios are to the first
    assert usual.workloads == ["minilm", "bert", "gpt"]
    comparison = pretrained.COMPARISON
    ours = ["java", "python"]
    assert comparison.of("bert", usual.contenders) == ["torchserve", "batches", *ours, "bare"]
    assert comparison.of("gpt", usual.contenders) == ["torchserve", *ours, "bare", "older"]
    asked = {(each.over[0].workload, each.over[0].connections, each.over[1], each.bound) for each in comparison.targets}
    for name in ours:
        assert {("minilm", 8, name, 3.0), ("bert", 8, name, 0.9), ("gpt", 1, name, 5.0), ("gpt", 8, name, 3.0)} <= asked


def test_torchserve_gets_the_handler_and_we_the_folder(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    for name in ("config.json", "tokenizer.json", pretrained.WEIGHTS):
        (saved / name).write_text("{}")
    by_hand = pretrained._by_hand(saved, pretrained.HANDLER / "classifier_handler.py")
    assert by_hand["extra_files"] == [saved / "config.json", saved / "tokenizer.json"]
    workload = pretrained.Pretrained("m", "", {"handler": pretrained.ARCHIVES / "noop_handler.py"}, (), str, by_hand)
    manifests = {}
    for name, contender in pretrained.COMPARISON.contenders.items():
        archive = tmp_path / name / workload.build(tmp_path / name, contender, contender.workers)
        with zipfile.ZipFile(archive) as opened:
            manifests[name] = json.loads(opened.read("MAR-INF/MANIFEST.json"))["model"]["handler"]
    stock, ours = ("classifier_handler.py",) * 2, ("noop_handler.py",) * 2
    assert tuple(manifests.values()) == stock + ours


def written_by(tmp_path: Path) -> pretrained.Writing:
    body = tmp_path / "body.json"
    body.write_bytes(b"{}")
    return pretrained.Writing("gpt", "", {}, (body,), str, older_bodies=(body,))


EVENT = b"data: {}\n\n"


class Answering(BaseHTTPRequestHandler):
    """A server that answers with `parts`, in chunks, of which the later ones take a while."""

    protocol_version = "HTTP/1.1"
    parts: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for index, part in enumerate([*self.parts, b""]):
            time.sleep(0.01 if index else 0)
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/predictions/gpt"
        server.shutdown()
        thread.join()


def test_texts_are_counted_if_they_have_all_their_tokens(answering: str, tmp_path: Path) -> None:
    writing, ours = written_by(tmp_path), Contender.parse("python-dedicated:1:32")
    Answering.parts = [EVENT] * pretrained.TOKENS
    found = writing.load("bundled", answering, ours, 3, 0.1)
    assert (found.requests >= 3, found.errors) == (True, 0)
    assert found.rps == pytest.approx(found.requests / found.seconds)
    assert found.first_ms < found.p50_ms / 2
    assert found.p50_ms > 10 * pretrained.TOKENS
    Answering.parts = [EVENT] * (pretrained.TOKENS - 1)
    with pytest.raises(RuntimeError, match="no text was written"):
        writing.load("bundled", answering, ours, 1, 0.1)
    Answering.parts = [b'{"tokens": 64}']
    assert writing.load("bundled", answering, pretrained.OLDER, 1, 0.05).errors == 0


def test_what_nobody_answers_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ConnectionRefused"):
        written_by(tmp_path).load("bundled", "http://127.0.0.1:9/predictions/gpt", pretrained.OLDER, 1, 0.0)


@pytest.mark.slow  # a process that imports transformers
@pytest.mark.parametrize("name", ["bert", "gpt"])
def test_the_loop_without_a_server(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    workload = pretrained.gpt(tmp_path, **TINY_GPT) if name == "gpt" else pretrained.bert(tmp_path, **TINY)
    options = turns.parse(pretrained.COMPARISON, ["--quick", "--seconds", "0.1", "--driver", "bundled"])
    found = pretrained.bare(workload, (1, 4), options)
    assert found.keys() == {1, 4}
    assert all(one.requests and one.first_ms <= one.p50_ms for one in found.values())
    assert (found[4].first_ms < found[4].p50_ms) is (name == "gpt")


@pytest.mark.slow  # a server for each of the contenders
@pytest.mark.integration
@pytest.mark.parametrize(("name", "contenders"), [("bert", "torchserve,python"), ("gpt", "torchserve,python,older")])
def test_a_run_with_a_tiny_model(
    name: str, contenders: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(turns.command_line, "take_cores", lambda _: True)  # the other tests keep theirs
    make = {
        "bert": lambda folder: pretrained.bert(folder, **TINY),
        "gpt": lambda folder: pretrained.gpt(folder, **TINY_GPT),
    }
    tiny = replace(pretrained.COMPARISON, workloads={name: make[name]})
    chosen = ["--quick", "--driver", "bundled", "--contenders", contenders]
    assert turns.measure(tiny, turns.parse(tiny, chosen)) == 0
    said = capfd.readouterr().out
    assert f"| {name}, 8 |" in said
    assert "met?" in said
    assert ("tokens/s" in said) is (name == "gpt")
