"""The pages, as a browser without a script sees them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from serving.frontend.engine import Answer, Call, Registration, Share, WorkerState

from .conftest import Shown, mark_of, shown


def test_the_overview_has_models_and_their_versions(console: Shown) -> None:
    console.engine.add(replace(console.engine.models["echo", "2.0"], share=Share(5)))
    with console.client() as client:
        page = client.get("/console")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert re.findall(r'data-name="(\w+)" data-version="([\d.]+)"', page.text) == [
            ("echo", "1.0"),
            ("echo", "2.0"),
            ("idle", "1.0"),
            ("stream", "1.0"),
        ]
        assert "5 %" in page.text
        assert "<option>echo1.0.mar</option>" in page.text
        assert client.get("/console/").status_code == 200


def test_the_numbers_come_as_events(console: Shown) -> None:
    with console.client() as client, client.stream("GET", "/console/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        line = next(line for line in stream.iter_lines() if line.startswith("data: "))
    sample = json.loads(line.removeprefix("data: "))
    assert [(row["name"], row["version"], row["ready"]) for row in sample["models"]] == [
        ("echo", "1.0", 1),
        ("echo", "2.0", 1),
        ("idle", "1.0", 0),
        ("stream", "1.0", 1),
    ]
    assert sample["requests"] is None, "there is nothing to compare the first look with"


def test_a_model_with_its_archive(console: Shown) -> None:
    worker = WorkerState("9007", 1.5e9, True, 4242, 12_345_678, None)
    console.engine.add(replace(console.engine.models["echo", "1.0"], workers=(worker,)))
    with console.client() as client:
        text = client.get("/console/models/echo").text
        for found in ("9007", "4242", "12.3 MB", "batchSize", "It says &lt;again&gt; what it hears.", "handler.py"):
            assert found in text, found
        assert re.search(r'<code class="hash" title="[0-9a-f]{64}">', text)
        # Its other version has none here.
        other = client.get("/console/models/echo/2.0")
        assert other.status_code == 200
        assert "echo2.0.mar: No such file or directory" in other.text


def test_a_sample_is_no_page(console: Shown) -> None:
    with console.client() as client:
        text = client.get("/console/models/echo/1.0/samples/0")
        assert (text.text, text.headers["content-type"]) == ("a cat <b>", "text/plain; charset=utf-8")
        assert text.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert client.get("/console/models/echo/1.0/samples/2").status_code == 404
        assert client.get("/console/models/echo/2.0/samples/0").status_code == 404


@pytest.mark.parametrize(
    "path", ["models/none", "models/echo/9", "try/none", "try/echo/9", "nothing", "models/none/1.0/samples/0"]
)
def test_what_is_not_there(console: Shown, path: str) -> None:
    with console.client() as client:
        page = client.get(f"/console/{path}")
        assert page.status_code == 404
        assert '<p class="bad" role="alert">' in page.text


def test_what_can_be_done_is_done(console: Shown) -> None:
    with console.client() as client:
        mark = mark_of(client.get("/console/models/echo"))

        def do(path: str, **fields: str) -> httpx.Response:
            return client.post(f"/console/models{path}", data={"mark": mark, **fields})

        done = do("/echo/1.0/scale", least="2", most="3")
        assert done.status_code == 303
        assert "Processing worker updates" in client.get(done.headers["location"]).text
        assert "Processing worker updates" not in client.get("/console/models/echo").text, "it is said once"
        assert "To unregister it, make another one the default first." in client.get("/console/models/echo").text
        assert '/echo/1.0/unregister"' not in client.get("/console/models/echo").text
        done = do("/echo/2.0/set-default")
        assert "Version 2.0 of echo is the default now." in client.get(done.headers["location"]).text
        question = client.get("/console/models/echo/1.0/unregister")
        assert "Unregister version 1.0 of echo?" in question.text
        assert ("echo", "1.0") in console.engine.models
        assert do("/echo/1.0/unregister").headers["location"] == "/console"
        assert ("echo", "1.0") not in console.engine.models
        assert "Version 1.0 of echo is unregistered." in client.get("/console").text
        done = do("", archive="echo1.0.mar", workers="0")
        assert done.headers["location"] == "/console/models/echo/1.0"
        assert "Version 1.0 of echo is registered." in client.get(done.headers["location"]).text
    assert console.engine.registered == [Registration("echo1.0.mar", initial_workers=0, synchronous=False)]
    assert console.engine.scaled == [("echo", "1.0", 2, 3, False)]


@pytest.mark.parametrize(
    ("path", "fields", "told"),
    [
        ("/echo/1.0/scale", {"least": "3", "most": "2"}, "at the most 2 workers are fewer than the 3 at the least"),
        ("/echo/1.0/scale", {"least": "-1"}, "a number of workers is wanted"),
        ("/echo/1.0/scale", {"least": "99999999999999"}, "a number of workers is wanted"),
        ("/echo/1.0/scale", {}, "a number of workers is wanted"),
        ("", {"archive": "../etc/passwd", "workers": "1"}, "there is no archive"),
        ("", {"archive": "https://evil.example/a.mar", "workers": "1"}, "there is no archive"),
        ("", {"archive": "echo1.0.mar", "workers": ""}, "a number of workers is wanted"),
    ],
)
def test_what_cannot_be_done_says_why(console: Shown, path: str, fields: dict[str, str], told: str) -> None:
    with console.client() as client:
        mark = mark_of(client.get("/console/models/echo"))
        page = client.post(f"/console/models{path}", data={"mark": mark, **fields})
    assert page.status_code == 400
    assert told in page.text
    assert not console.engine.registered


def test_what_is_refused_leads_back_to_its_form(console: Shown) -> None:
    with console.client() as client:
        mark = mark_of(client.get("/console"))

        def do(path: str, page: str, **fields: str) -> str:
            headers = {"referer": f"{client.base_url}{page}"}
            done = client.post(f"/console{path}", data={"mark": mark, **fields}, headers=headers)
            assert (done.status_code, done.headers["location"]) == (303, page)
            first, again = client.get(page).text, client.get(page).text
            shown_as = '<p class="bad bar" role="alert">(.*)</p>'
            assert not re.search(shown_as, again), "it is said once"
            return "".join(re.findall(shown_as, first))

        told = do("/models", "/console", archive="echo1.0.mar", workers="1")
        assert told == "Model version 1.0 is already registered for model echo"
        page = "/console/models/echo"
        assert "2 workers are fewer" in do("/models/echo/1.0/scale", page, least="3", most="2")
        assert "of a session that has ended" in do("/models/echo/1.0/scale", page, mark="0" * 64)
        assert "choose a file" in do("/load/echo", "/console/load/echo", loop="rate", rate="1", seconds="1")
        # Nobody's link, and no other page, is said or led to.
        assert "evil" not in client.get("/console/models/echo?told=evil").text
        for referer in ("http://evil.example/console", f"{client.base_url}/models", f"{client.base_url}//evil.example"):
            answer = client.post("/console/models", data={"mark": mark}, headers={"referer": referer})
            assert answer.status_code == 400, referer


def test_the_default_version_is_kept_while_there_are_others(console: Shown) -> None:
    with console.client() as client:
        mark = mark_of(client.get("/console/models/echo"))
        page = client.post("/console/models/echo/1.0/unregister", data={"mark": mark})
    assert page.status_code == 403
    assert "Cannot remove default version for model echo" in page.text


def test_a_model_is_tried_without_a_script(console: Shown) -> None:
    with console.client() as client:
        page = client.get("/console/try/echo")
        assert "text/plain" in page.text
        mark = mark_of(page)
        answer = client.post("/console/try/echo", data={"mark": mark, "text": '{"x": [1, 2]}'}).text
        assert "&#34;version&#34;: &#34;1.0&#34;" in answer
        assert "queue" in answer
        assert "curl -H &#39;Content-Type: application/json&#39;" in answer
        client.post("/console/try/echo/2.0", data={"mark": mark, "sample": "0"})
        client.post("/console/try/echo", data={"mark": mark, "sample": "0"})
        client.post("/console/try/echo", data={"mark": mark}, files={"file": ("a.png", b"\x89PNG", "image/png")})
        client.post("/console/try/echo", data={"mark": mark, "text": "hm", "kind": "text/x-own"})
    asked = [(call.version, call.request.headers.get("content-type")) for call in console.engine.calls]
    # Version 2.0 has no archive here, and so no sample.
    assert asked == [(None, "application/json"), (None, "text/plain"), (None, "image/png"), (None, "text/x-own")]
    assert console.engine.calls[1].request.parameters[0].value == b"a cat <b>"


def test_a_failure_is_shown(console: Shown) -> None:
    with console.client() as client:
        mark = mark_of(client.get("/console/try/idle"))
        page = client.post("/console/try/idle", data={"mark": mark, "text": "x"})
        assert '<span class="bad">503</span>' in page.text
        assert "has no worker to serve" in page.text
        nothing = client.post("/console/try/echo", data={"mark": mark})
        assert nothing.status_code == 400
        alone = client.post("/console/try/echo", data={"mark": mark}, headers={"x-torchmar-alone": "1"})
        assert alone.text.strip() == '<p class="bad" role="alert">choose a file or a sample, or write something</p>'
        both = client.post("/console/try/echo", data={"mark": mark, "text": "x"}, files={"file": ("a", b"x")})
        assert "a file is chosen and a text written" in both.text
    assert not console.engine.calls[1:], "nothing was sent of what is not clear"


def test_the_id_of_an_error_leads_to_its_lines(console: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    async def predict(_: Call) -> Answer:
        return Answer(503, "", "text/plain", {}, b"<b>. The server's log has the reason under the id c59b024b.")

    monkeypatch.setattr(console.engine, "predict", predict)
    with console.client() as client:
        mark = mark_of(client.get("/console/try/echo"))
        page = client.post("/console/try/echo", data={"mark": mark, "text": "x"}).text
    assert "&lt;b&gt;" in page
    assert 'under the id <a href="/console/logs?id=c59b024b">c59b024b</a>.' in page


def test_what_is_not_known_yet_is_no_zero(console: Shown) -> None:
    worker = WorkerState("9007", 1.5e9, True, 4242, 0, None)
    console.engine.add(replace(console.engine.models["echo", "1.0"], workers=(worker,)))
    with console.client() as client:
        assert '<td class="n" data-live="memory">–</td>' in client.get("/console").text
        assert "0 B" not in client.get("/console/models/echo").text.partition("Members")[0]
        with client.stream("GET", "/console/events") as stream:
            line = next(line for line in stream.iter_lines() if line.startswith("data: "))
    assert json.loads(line[6:])["models"][0]["memory"] is None


def test_a_stream_comes_as_it_is_made(console: Shown) -> None:
    with console.client() as client:
        mark = mark_of(client.get("/console/try/stream"))
        fields = {"mark": mark, "text": "x"}
        alone = {"x-torchmar-alone": "1"}
        with client.stream("POST", "/console/try/stream", data=fields, headers=alone) as stream:
            assert stream.headers["x-torchmar-answer"] == "stream"
            body = b"".join(stream.iter_raw())
        text, _, page = body.partition(b"\0")
        assert text == b"part0part1part2last"
        assert b"part0part1part2last" in page
        assert console.engine.closed == 1
        hint = "what the server tells is the time until the first one"
        assert hint.encode() in page
        whole = client.post("/console/try/stream", data=fields).text
        assert "part0part1part2last" in whole
        assert hint in whole
        assert hint not in client.post("/console/try/echo", data=fields).text


def test_a_form_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with shown(tmp_path, max_request_size="1000") as console, console.client() as client:
        mark = mark_of(client.get("/console/try/echo"))
        page = client.post("/console/try/echo", data={"mark": mark}, files={"file": ("a", b"x" * 100_000)})
        assert page.status_code == 413
        chunks = client.post("/console/try/echo", content=iter([b"mark=1"]))
        assert chunks.status_code == 400
        # What was not wanted is not taken for the next request.
        assert client.get("/console").status_code == 200
    assert not console.engine.calls


def test_it_speaks_chinese(console: Shown) -> None:
    with console.client() as client:
        assert '<html lang="zh">' in client.get("/console", headers={"accept-language": "zh-CN,zh;q=0.9"}).text
        assert "<h1>Overview</h1>" in client.get("/console", headers={"accept-language": "de"}).text
        chosen = client.get("/console?lang=zh")
        assert "<h1>概览</h1>" in chosen.text
        assert "<h1>日志</h1>" in client.get("/console/logs").text, "the choice is kept"
        assert "<h1>Logs</h1>" in client.get("/console/logs?lang=en").text


def test_the_logs_go_on(tmp_path: Path) -> None:
    line = "2026-01-01T00:00:00,000 [{}] W-9000-{}_1.0-stdout MODEL_LOG - {}\n"
    log = tmp_path / "model_log.log"
    log.write_text(line.format("INFO ", "echo", "<b>hello</b>") + line.format("WARN ", "other", "careful"))
    with shown(tmp_path) as console, console.client() as client:
        page = client.get("/console/logs").text
        assert "&lt;b&gt;hello&lt;/b&gt;" in page
        assert re.search(r'<div class="warn">.*careful</div>', page)
        assert "careful" not in client.get("/console/logs?model=echo").text
        assert "hello" not in client.get("/console/logs?id=careful").text
        with log.open("a") as file:
            file.write(line.format("INFO ", "echo", "since the page"))
        with client.stream("GET", "/console/logs/events?model=echo") as stream:
            told = (one[6:] for one in stream.iter_lines() if one.startswith("data: "))
            found = [next(told)]
            with log.open("a") as file:
                file.write(line.format("INFO ", "echo", "and more"))
            found.append(next(told))
    said = [[row["text"].rpartition(" - ")[2] for row in json.loads(one)] for one in found]
    assert said == [["<b>hello</b>", "since the page"], ["and more"]]


def test_an_errors_id_has_its_traceback(tmp_path: Path) -> None:
    lines = (
        "Error 44a88df7: no",
        "Traceback (most recent call last):",
        "    1 / 0",
        "ZeroDivisionError: division",
        "",
        "on",
    )
    text = "2026-01-01T00:00:00,000 [INFO ] W-9000-echo_1.0-stdout MODEL_LOG - "
    (tmp_path / "model_log.log").write_text("".join(f"{text}{line}\n" for line in lines))
    with shown(tmp_path) as console, console.client() as client:
        page = client.get("/console/logs?id=44a88df7").text
    found = [line.rpartition("MODEL_LOG - ")[2] for line in re.findall("<div[^>]*>(2026.*)</div>", page)]
    assert found == list(lines[:4])


def test_the_error_of_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    text = "2026-01-01T00:00:00,000 [INFO ] W-9000-echo_1.0-stdout MODEL_LOG - "
    lines = ["Traceback (most recent call last):", '  File "/x/models/' + "0" * 32 + '/net.py", line 3, in initialize']
    lines += ["    raise OSError(1)", "OSError: <no labels>", "Failed to load model echo: OSError: <no labels>"]
    lines += ["  in net.py:3 (initialize)", "  hint: add it", "", "more"]
    (tmp_path / "model_log.log").write_text("".join(f"{text}{line}\n" for line in lines))
    with shown(tmp_path) as console, console.client() as client:
        assert "It cannot be loaded" not in client.get("/console/models/echo").text, "it has what it wants"
        (worker,) = console.engine.models["echo", "1.0"].workers
        console.engine.add(replace(console.engine.models["echo", "1.0"], workers=(replace(worker, ready=False),)))
        page = client.get("/console/models/echo").text
    assert "It cannot be loaded" in page
    assert "Failed to load model echo: OSError: &lt;no labels&gt;\n  in net.py:3\n  hint: add it" in page
    assert "Traceback (most recent call last):" in page


def test_the_apis_of_server_and_models(console: Shown) -> None:
    with console.client() as client:
        assert client.get("/docs").headers["location"] == "/console/docs"
        page = client.get("/console/docs").text
        document = client.get("/console/openapi.json").json()
    assert 'href="/console/try/echo/1.0"' in page
    assert "a cat &lt;b&gt;" in page
    assert set(document["paths"]) >= {"/predictions/{model_name}", "/models", "/metrics", "/predictions/echo", "/ping"}
    own = document["paths"]["/predictions/echo/1.0"]["post"]
    assert own["requestBody"]["content"]["text/plain"]["examples"] == {"sample 0": {"value": "a cat <b>"}}
    assert own["requestBody"]["content"]["application/json"]["examples"] == {"sample 1": {"value": {"a": 1}}}
    assert "It says <again> what it hears." in own["description"]


def test_the_rest_is_the_management_api(console: Shown) -> None:
    with console.client() as client:
        assert [row["modelName"] for row in client.get("/models").json()["models"]] == ["echo", "idle", "stream"]
        assert client.get("/consoles").json()["code"] == 404


@pytest.mark.parametrize("least", ["0000000001000000", "9" * 5000, " " * 9 + "2000", "-1", "1" + " " * 9 + "1"])
def test_a_number_of_workers_is_read_whole(console: Shown, least: str) -> None:
    with console.client() as client:
        mark = mark_of(client.get("/console/models/echo"))
        answer = client.post("/console/models/echo/1.0/scale", data={"mark": mark, "least": least})
    assert answer.status_code == 400, answer.text
    assert not console.engine.scaled


@pytest.mark.parametrize(
    "answer", ['"\\ud800"', '{"\\ud800": 0.5, "b": 0.5}', "[" * 900 + "]" * 900], ids=["text", "key", "deep"]
)
def test_an_answer_that_no_page_can_hold_is_shown_all_the_same(
    console: Shown, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    async def predict(_: Call) -> Answer:
        return Answer(200, "", "application/json", {}, answer.encode())

    monkeypatch.setattr(console.engine, "predict", predict)
    with console.client() as client:
        mark = mark_of(client.get("/console/try/echo"))
        for headers in ({}, {"x-torchmar-alone": "1"}):
            page = client.post("/console/try/echo", data={"mark": mark, "text": "a"}, headers=headers)
            assert page.status_code == 200, page.text
            assert re.search(r"aria-label=.Answer.>[^<]*([?]|[.]{3})", page.text)
