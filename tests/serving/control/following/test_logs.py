"""The log of a server, and what it logs from now on."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from serving.control.following import logs

TRACEBACK = (
    "Traceback (most recent call last):",
    '  File "h.py", line 3, in handle',
    "    1 / 0",
    "ZeroDivisionError: division by zero",
)
CHAINED = (
    *TRACEBACK,
    "",
    "During handling of the above exception, another exception occurred:",
    "",
    "Traceback (most recent call last):",
    '  File "h.py", line 5, in handle',
    "ValueError: no",
)


def printed(second: int, text: str, worker: str = "W-9000-net_1.0", pipe: str = "stdout") -> str:
    return f"2026-11-29T05:00:{second:02},000 [INFO ] {worker}-{pipe} MODEL_LOG - {text}\n"


def said(second: int, text: str) -> str:
    return f"2026-11-29T05:00:{second:02},500 [WARN ] main org.pytorch.serve.ModelServer - {text}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [
        printed(1, "hello"),
        printed(3, "elsewhere", "W-9001-net_b_1.0"),
        printed(5, "Error 5f0c2e1d: request r failed"),
    ]
    for line in CHAINED:
        lines += [printed(5, line), printed(5, "between", "W-9001-net_b_1.0")]
    (tmp_path / "model_log.log").write_text("".join([*lines, printed(5, ""), printed(6, "afterwards")]))
    (tmp_path / "ts_log.log").write_text(said(2, "up") + "java.lang.Error\n\tat A.java:1\n" + said(7, "down"))
    return tmp_path


def texts(events: list[logs.Event]) -> list[str]:
    return [event.printed if event.worker else event.text for event in events]


def test_both_logs_are_one_in_the_order_of_their_times(folder: Path) -> None:
    found = logs.read(folder)
    assert [event.time for event in found] == sorted(event.time for event in found)
    assert found[1].text.endswith("up\njava.lang.Error\n\tat A.java:1")
    assert len(found) == 7 + 2 * len(CHAINED)


def test_a_models_workers_and_no_others(folder: Path) -> None:
    """A model's name may begin as another's does."""
    assert texts(logs.read(folder, "net"))[0] == "hello"
    assert not any("elsewhere" in event.text for event in logs.read(folder, "net"))
    assert texts(logs.read(folder, "net_b"))[0] == "elsewhere"
    assert logs.read(folder, "ne") == []
    assert logs.models(folder) == ["net_1.0", "net_b_1.0"]


def test_an_id_has_its_traceback_with_all_that_it_is_chained_to(folder: Path) -> None:
    assert texts(logs.read(folder, marked="5f0c2e1d")) == ["Error 5f0c2e1d: request r failed", *CHAINED]
    assert logs.read(folder, marked="00000000") == []


def test_what_follows_an_id_comes_with_its_traceback(folder: Path) -> None:
    """Also where it comes line by line, and another worker prints meanwhile."""
    path = folder / "model_log.log"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("")
    following, found = logs.Following(folder, marked="5f0c2e1d"), []
    for line in lines:
        with path.open("a") as stream:
            stream.write(line)
        found += texts(following.events())
    assert found == ["Error 5f0c2e1d: request r failed", *CHAINED]


def test_full_files_that_were_packed_come_first(folder: Path) -> None:
    for number, text in ((1, "oldest"), (2, "old")):
        with gzip.open(folder / f"model_log.{number}.log.gz", "wt") as stream:
            stream.write(printed(0, text))
    (folder / "model_log.3.log.gz").write_bytes(b"\x1f\x8bhalf")  # just being packed
    assert texts(logs.read(folder, "net"))[:3] == ["oldest", "old", "hello"]


def test_no_logs_yet(tmp_path: Path) -> None:
    assert logs.read(tmp_path) == []
    assert logs.models(tmp_path) == []


def followed(folder: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str], *, model: str | None = None) -> list[str]:
    """Return what is reported while one part after the other is written, until the server ends."""
    left = list(parts)

    def write(_: float) -> None:
        if left:
            with (folder / "model_log.log").open("a") as stream:
                stream.write(left.pop(0))

    monkeypatch.setattr("time.sleep", write)
    return texts(list(logs.follow(folder, lambda: bool(left), model, 0)))


def test_what_comes_is_told_in_whole_lines_until_the_server_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = printed(8, "one"), printed(9, "two")
    assert followed(folder, monkeypatch, [first[:30], first[30:] + second]) == ["one", "two"]


def test_only_what_is_asked_for_is_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [printed(8, "mine"), printed(8, "not mine", "W-9001-net_b_1.0")]
    assert followed(folder, monkeypatch, parts, model="net") == ["mine"]


def test_a_file_that_begins_anew_is_read_from_its_begin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was full, or the server was started again."""
    path = folder / "model_log.log"
    turns = [True, False]

    def rotate(_: float) -> None:
        path.rename(folder / "away")
        path.write_text(printed(1, "new"))

    monkeypatch.setattr("time.sleep", rotate)
    assert texts(list(logs.follow(folder, lambda: turns.pop(0), "net", 0))) == ["new"]


def test_what_comes_is_told_once_and_only_what_is_marked(folder: Path) -> None:
    everything, marked = logs.Following(folder), logs.Following(folder, "net", "request r")
    assert texts(everything.events()) == texts(logs.read(folder))
    assert texts(marked.events()) == ["Error 5f0c2e1d: request r failed", *CHAINED]
    with (folder / "model_log.log").open("a") as stream:
        stream.write(printed(8, "request r again") + printed(9, "request s"))
    assert texts(everything.events()) == ["request r again", "request s"]
    assert texts(marked.events()) == ["request r again"]
    assert everything.events() == marked.events() == []


def test_of_much_that_comes_only_the_last_part_is_read(folder: Path) -> None:
    last = printed(9, "last")
    following = logs.Following(folder, "net", most=len(last) + 5)
    with (folder / "model_log.log").open("a") as stream:
        stream.write(printed(8, "before") + last)
    assert texts(following.events()) == ["last"]


def test_what_replicas_on_ray_print_is_a_log_like_others(folder: Path) -> None:
    session = folder / "session" / "serve"
    session.mkdir(parents=True)
    (folder / logs.RAY).symlink_to(session)

    def rays(second: int, text: str) -> str:
        return f"INFO 2026-11-29 05:00:{second:02},000 on_ray--2.0_model abc -- {text}\n"

    lines = [rays(4, "hello"), rays(9, "Error 0badcafe: request r failed"), *(rays(9, line) for line in TRACEBACK)]
    (session / "replica_on_ray--2.0_model_ab1.log").write_text("".join([*lines, rays(9, ""), rays(9, "afterwards")]))
    (session / "replica_on_ray--2.0_model_ab2.log").write_text(rays(9, "another"))
    (session / "replica_front_model_ab3.log").write_text(rays(9, "no model"))
    assert texts(logs.read(folder, marked="0badcafe")) == ["Error 0badcafe: request r failed", *TRACEBACK]
    assert texts(logs.read(folder, model="on_ray"))[0] == "hello"
    assert "another" in texts(logs.Following(folder, "on_ray").events())
    assert "no model" not in texts(logs.read(folder))
    assert "on_ray_2.0" in logs.models(folder)
