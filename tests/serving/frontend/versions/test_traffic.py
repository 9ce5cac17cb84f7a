"""Shares of the requests that name no version: without an engine, for any percents, keys and orders."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.engine import Share
from serving.frontend.errors import BadRequestError
from serving.frontend.versions.traffic import Traffic

STICKY = ("x-user",)
USERS = [f"user-{number}" for number in range(20_000)]
PERCENTS = st.integers(0, 100)
NAMES = st.text(min_size=1, max_size=20)


def shared(name: str = "m", **percents: int) -> Traffic:
    traffic = Traffic(name)
    for version, percent in percents.items():
        traffic.give(version, Share(percent, sticky=STICKY))
    return traffic


def answers(traffic: Traffic, users: list[str]) -> dict[str, str | None]:
    return {user: traffic.route({"X-User": user})[0] for user in users}


@pytest.mark.parametrize(("a", "b"), [(1, 0), (5, 10), (50, 50), (100, 0), (33, 66)])
def test_shares_of_many_keys_are_as_large_as_they_should_be(a: int, b: int) -> None:
    found = Counter(answers(shared(a=a, b=b), USERS).values())
    for version, percent in (("a", a), ("b", b), (None, 100 - a - b)):
        assert abs(found[version] / len(USERS) * 100 - percent) < 1.5, (version, found)


def test_without_a_header_shares_are_random() -> None:
    for headers in ({}, {"x-other": "1"}, {"x-user": ""}):
        traffic = shared(a=20)
        found = Counter(traffic.route(headers)[0] for _ in range(10_000))
        assert 1_700 < found["a"] < 2_300


@given(PERCENTS, PERCENTS, NAMES, st.lists(NAMES, max_size=50))
def test_who_is_on_a_canary_stays_there_when_its_share_grows(
    first: int, second: int, version: str, users: list[str]
) -> None:
    low, high = sorted((first, second))
    traffic = shared(**{version: low})
    before = answers(traffic, users)
    traffic.give(version, Share(high))
    after = answers(traffic, users)
    assert all(after[user] == version for user in users if before[user] == version)
    # And back again, and once more: the same.
    traffic.give(version, Share(low))
    assert answers(traffic, users) == before
    traffic.give(version, Share(high))
    assert answers(traffic, users) == after


_STEPS = st.lists(st.tuples(st.sampled_from("abc"), PERCENTS, st.booleans()), max_size=12)


@given(_STEPS)
def test_whatever_is_asked_for_percents_are_as_told_and_nobody_else_is_moved(
    steps: list[tuple[str, int, bool]],
) -> None:
    traffic, told = Traffic("m"), dict[str, Share]()
    for version, percent, shadow in steps:
        before = list(zip(traffic._canaries or [None] * 100, traffic._shadows or [()] * 100, strict=True))
        others = sum(one.percent for name, one in told.items() if name != version and not one.shadow)
        try:
            traffic.give(version, Share(percent, shadow))
        except BadRequestError:
            assert not shadow
            assert percent + others > 100
            assert traffic.share(version) == told.get(version)
            continue
        assert shadow or percent + others <= 100
        told.pop(version, None)
        if percent:
            told[version] = Share(percent, shadow, ())
        assert {name: share for name in "abc" if (share := traffic.share(name))} == told
        assert bool(traffic) == bool(told)
        after = list(zip(traffic._canaries, traffic._shadows, strict=True))
        for name, share in told.items():
            have = [name in shadows if share.shadow else canary == name for canary, shadows in after]
            assert sum(have) == share.percent
        for (canary, shadows), (now, copies) in zip(before, after, strict=True):
            if canary not in (None, version):
                assert now == canary
            assert {*shadows} - {version} == {*copies} - {version}


def test_more_than_is_left_is_refused_in_words() -> None:
    traffic = shared(a=50, b=20)
    text = "version c of model m cannot have 31 % of the requests: other versions have 70 %, which leaves 30 %"
    with pytest.raises(BadRequestError, match=text):
        traffic.give("c", Share(31))
    traffic.give("c", Share(30))
    traffic.give("a", Share(50))


@given(_STEPS, st.lists(NAMES, max_size=20))
def test_what_is_written_down_is_read_again(steps: list[tuple[str, int, bool]], users: list[str]) -> None:
    traffic = Traffic("m")
    for version, percent, shadow in steps:
        try:
            traffic.give(version, Share(percent, shadow, STICKY))
        except BadRequestError:
            continue
    written = json.loads(json.dumps({name: traffic.written(name) for name in "abc"}))
    again = Traffic("m")
    for version in "cab":
        if written[version] is not None:
            again.restore(version, written[version])
    assert {name: again.share(name) for name in "abc"} == {name: traffic.share(name) for name in "abc"}
    if traffic:
        for user in users:
            canary, shadows = traffic.route({"x-user": user})
            assert (canary, {*shadows}) == (again.route({"x-user": user})[0], {*again.route({"x-user": user})[1]})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 105) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["slots", "x"]), inner, max_size=2),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional={"slots": _JSON, "shadow": _JSON, "sticky": _JSON}))
def test_what_nobody_has_written_is_refused_or_stands_for_what_it_says(written: dict[str, object]) -> None:
    traffic = shared(a=50)
    slots = set((traffic.written("a") or {})["slots"])
    try:
        traffic.restore("b", written)
    except BadRequestError:
        assert traffic.share("b") is None
        return
    share = traffic.share("b")
    assert isinstance(written["slots"], list)
    assert (share.percent if share else 0) == len(written["slots"])
    assert written["shadow"] or slots.isdisjoint(written["slots"])


def test_a_slot_of_another_canary_is_not_restored() -> None:
    traffic = shared(a=50)
    taken = (traffic.written("a") or {})["slots"][0]
    with pytest.raises(BadRequestError, match="its traffic is none that was written down"):
        traffic.restore("b", {"slots": [taken], "shadow": False, "sticky": []})
    traffic.restore("b", {"slots": [taken], "shadow": True, "sticky": ["x-user"]})
    assert traffic.share("b") == Share(1, shadow=True, sticky=STICKY)


def test_the_first_header_that_a_request_has_counts() -> None:
    traffic = Traffic("m")
    traffic.give("2", Share(50, sticky=("x-user", "x-session")))
    by_user = {user: traffic.route({"X-USER": user})[0] for user in USERS[:50]}
    for user, version in by_user.items():
        assert traffic.route({"x-session": "whatever", "x-user": user})[0] == version
        assert traffic.route({"X-Session": user})[0] == version
    assert set(by_user.values()) == {"2", None}


def test_the_headers_stay_until_others_are_named() -> None:
    traffic = shared(a=5)
    traffic.give("a", Share(10))
    traffic.give("b", Share(10, shadow=True))
    assert traffic.share("a") == Share(10, sticky=STICKY)
    assert traffic.share("b") == Share(10, shadow=True, sticky=STICKY)
    traffic.give("b", Share(10, sticky=()))
    assert traffic.share("a") == Share(10, sticky=())


def test_not_the_same_clients_try_every_model_and_every_version() -> None:
    first, second = shared(**{"2.0": 10}), shared(**{"3.0": 10})
    other = shared("n", **{"2.0": 10})
    users = USERS[:2000]
    chosen = [{user for user, version in answers(one, users).items() if version} for one in (first, second, other)]
    for one in chosen[1:]:
        assert len(one & chosen[0]) < len(one) / 2


def test_every_process_shares_out_alike() -> None:
    """A hash of Python's own would differ."""
    code = (
        "from serving.frontend.engine import Share; from serving.frontend.versions.traffic import Traffic;"
        "t = Traffic('m'); t.give('a', Share(50, sticky=('x-user',)));"
        "print(''.join('a' if t.route({'x-user': str(n)})[0] else '-' for n in range(64)))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert set(said.pop().strip()) == {"a", "-"}
