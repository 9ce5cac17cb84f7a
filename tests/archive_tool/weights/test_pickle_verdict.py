"""Two readers of pickles: an allow-list of data, and a list of known attacks."""

import io
import os
import pickle

from archive_tool.pickles import imports
from archive_tool.pickles.budget import Budget
from archive_tool.weights import pickle_verdict
from archive_tool.weights.first_look import File
from tests.archive_tool.hostile import attack


def verdict(data, found=None):
    """Return what is wrong with a pickle, and whether that settles the file."""
    budget = Budget()
    file = File(io.BytesIO(data), "weights.pt", len(data))
    problems = []
    judging = pickle_verdict.judge(file, 0, found or imports.imports(io.BytesIO(data), budget), budget)
    while True:
        try:
            problems.append(next(judging))
        except StopIteration as end:
            return problems, end.value


def test_data_is_no_problem():
    assert verdict(pickle.dumps({"a": [1, 2.5, b"x"]})) == ([], False)


def test_a_known_attack_is_called_so():
    problems, told = verdict(attack())
    assert told
    name = f"{os.name}.mkdir"
    assert problems == [f"would run code when it is loaded: it imports {name}; {name} is known from attacks"]


def test_a_long_pickle_is_read_by_us_alone(monkeypatch):
    monkeypatch.setattr(pickle_verdict, "_SECOND_READER", 10)
    assert verdict(attack()) == ([f"would run code when it is loaded: it imports {os.name}.mkdir"], True)


def test_picklescan_finds_what_we_should_miss():
    """Two readers must agree that a pickle is harmless."""
    problems, _ = verdict(attack(), imports.Imports())
    assert any(f"{os.name}.mkdir" in problem for problem in problems)


def test_of_many_names_a_few_are_shown():
    names = {f"module.name{number:02}" for number in range(9)} | {"bad\nname" + "x" * 300}
    (problem,), _ = verdict(b"N.", imports.Imports(names))
    assert problem.endswith("module.name04 and 4 more")
    assert "\n" not in problem
