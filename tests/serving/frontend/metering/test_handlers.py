"""What becomes of the metrics that handlers print."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.metering.catalogue import Catalogue, Kind, Specification
from serving.frontend.metering.handlers import MAX_SERIES, HandlerMetrics, RefusedError
from serving.frontend.metering.series import Registry

from .samples import samples

NAMED = {
    "HandlerTime": Specification("HandlerTime", Kind.GAUGE, "ms", ("ModelName", "Level", "Hostname")),
    "Hits": Specification("Hits", Kind.COUNTER, "Count", ("ModelName", "Hostname")),
    "Sizes": Specification("Sizes", Kind.HISTOGRAM, "MB", ("Hostname",)),
}
ONE, TWO = ("mnist", "1.0"), ("mnist", "2.0")


def line(name: str = "Hits", value: object = 1, dimensions: str = "ModelName:mnist", kind: str = "COUNTER") -> str:
    return f"{name}.ms:{value}|#{dimensions}|#type:{kind}|#hostname:h,1795950681,id-1,id-2"


def metrics(*, auto_detect: bool = False) -> tuple[HandlerMetrics, Registry]:
    registry = Registry()
    return HandlerMetrics(Catalogue({}, NAMED), registry, auto_detect=auto_detect), registry


def refusal(found: HandlerMetrics, text: str) -> str:
    with pytest.raises(RefusedError) as caught:
        found.take(ONE, text)
    return caught.value.reason


def test_labels_are_by_position_and_the_host_is_the_last() -> None:
    found, registry = metrics()
    found.take(ONE, line("HandlerTime", 2.5, "Other:a,Names:b", "GAUGE"))
    found.take(ONE, line("HandlerTime", 3.5, "ModelName:a,Level:b", "COUNTER"))
    assert samples(registry.text()) == {"HandlerTime{'Hostname': 'h', 'Level': 'b', 'ModelName': 'a'}": 3.5}


def test_the_kind_is_that_of_metrics_yaml() -> None:
    found, registry = metrics()
    for _ in range(3):
        found.take(ONE, line("Hits", 2, kind="GAUGE"))
        found.take(ONE, line("Sizes", 5, ""))
    shown = samples(registry.text())
    assert shown["Hits{'Hostname': 'h', 'ModelName': 'mnist'}"] == 6
    assert shown["Sizes_count{'Hostname': 'h'}"] == 3
    assert shown["Sizes_sum{'Hostname': 'h'}"] == 15


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "line"),
        (line(dimensions="ModelName:\x1b"), "line"),
        (line("Other"), "unknown"),
        (line("Hits", "1,2"), "value"),
        (line("Hits", -1), "value"),
        (line("Hits", 1, ""), "labels"),
        (line("Hits", 1, "ModelName:a,More:b"), "labels"),
    ],
)
def test_what_is_refused_changes_nothing(text: str, reason: str) -> None:
    found, registry = metrics()
    found.take(ONE, line())
    before = registry.text()
    assert refusal(found, text) == reason
    assert registry.text() == before


def test_a_value_is_looked_at_even_if_the_labels_are_known() -> None:
    found, registry = metrics()
    found.take(ONE, line("Hits", 3))
    assert refusal(found, line("Hits", -1)) == "value"
    assert refusal(found, line("Hits", "1-1")) == "value"
    assert list(samples(registry.text()).values()) == [3]


def test_auto_detection_takes_name_labels_and_kind_of_the_first_line() -> None:
    found, registry = metrics(auto_detect=True)
    found.take(ONE, line("Mine", 2, "A:x,B:y"))
    found.take(ONE, line("Mine", 3, "C:x,D:y", "GAUGE"))
    found.take(ONE, "Plain.Count:4|#|#hostname:h,1")
    assert samples(registry.text()) == {"Mine{'A': 'x', 'B': 'y', 'Hostname': 'h'}": 5, "Plain{'Hostname': 'h'}": 4}
    assert b"# TYPE Mine counter\n" in registry.text()
    assert refusal(found, line("Mine", 2, "A:x")) == "labels"


@pytest.mark.parametrize(
    "text",
    [
        line("With blank"),
        line("9digit"),
        line("Mine", dimensions="a-b:c"),
        line("Mine", dimensions="a:b,a:c"),
        line("Mine", dimensions="__a:b"),
        line("Mine", dimensions="le:b", kind="HISTOGRAM"),
        line("Mine", kind="SUMMARY"),
        line("Mine", dimensions="Hostname:b"),
        line("Sizes_bucket"),
        line("Hits_total"),
    ],
)
def test_what_prometheus_cannot_have_is_refused(text: str) -> None:
    found, registry = metrics(auto_detect=True)
    before = registry.text()
    assert refusal(found, text) == "name"
    assert registry.text() == before


def test_a_version_has_no_more_series_than_it_may() -> None:
    found, registry = metrics(auto_detect=True)
    for number in range(MAX_SERIES):
        found.take(ONE, line("Hits", 1, f"ModelName:{number}"))
    for name in ("Hits", "Other"):
        assert refusal(found, line(name, 1, "ModelName:more")) == "series"
    found.take(ONE, line("Hits", 1, "ModelName:5"))
    found.take(TWO, line("Hits", 1, "ModelName:more"))
    assert len(samples(registry.text())) == MAX_SERIES + 1


def test_labels_that_are_written_in_many_ways_take_no_more_memory() -> None:
    found, registry = metrics()
    for number in range(10 * MAX_SERIES):
        found.take(ONE, line("Hits", 1, f"ModelName:a,{number}"))
    assert list(samples(registry.text()).values()) == [10 * MAX_SERIES]
    assert len(found._owned[ONE].seen) == 2 * MAX_SERIES


def test_what_a_version_alone_has_is_forgotten_with_it() -> None:
    found, registry = metrics(auto_detect=True)
    for owner in (ONE, TWO):
        found.take(owner, line("Hits", 1, "ModelName:both"))
        found.take(owner, line("Hits", 1, f"ModelName:{owner[1]}"))
    found.take(ONE, line("Mine"))
    found.forget(ONE)
    assert samples(registry.text()) == {
        "Hits{'Hostname': 'h', 'ModelName': 'both'}": 2,
        "Hits{'Hostname': 'h', 'ModelName': '2.0'}": 1,
    }
    assert b"Mine" not in registry.text()
    assert b"# TYPE Hits counter" in registry.text()
    found.forget(TWO)
    found.forget(("never", "1"))
    assert samples(registry.text()) == {}
    # The name is free again, for another kind, too.
    found.take(TWO, line("Mine", 7, "", "GAUGE"))
    assert samples(registry.text()) == {"Mine{'Hostname': 'h'}": 7}


def test_the_log_has_torchserves_lines(caplog: pytest.LogCaptureFixture) -> None:
    found = HandlerMetrics(Catalogue({}, NAMED), None, auto_detect=True)
    with caplog.at_level(logging.INFO, "MODEL_METRICS"):
        found.take(ONE, line("HandlerTime", 5, "ModelName:a", "GAUGE"))
        found.take(ONE, line("Mine", 5, "A:b"))
    assert [record.name for record in caplog.records] == ["MODEL_METRICS"] * 2
    assert [record.getMessage().rpartition(",timestamp:")[0] for record in caplog.records] == [
        "HandlerTime.ms:5.0|#ModelName:a|#hostname:h,requestID:id-1,id-2",
        "Mine.ms:5.0|#A:b|#hostname:h,requestID:id-1,id-2",
    ]


def test_a_log_that_nobody_keeps_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "MODEL_METRICS"):
        HandlerMetrics(Catalogue({}, NAMED), None, auto_detect=False).take(ONE, line())
    assert not caplog.records


def test_metrics_that_prometheus_cannot_have_end_the_start() -> None:
    named = {"a b": Specification("a b", Kind.GAUGE, "ms", ("Hostname",))}
    with pytest.raises(ValueError, match="no name of a metric: 'a b'"):
        HandlerMetrics(Catalogue({}, named), Registry(), auto_detect=False)


WORDS = st.sampled_from(["Hits", "HandlerTime", "Sizes", "Sizes_sum", "A", "b", "le", "__x", "1", "-1", "", "\x00"])


@given(st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS, st.booleans()), max_size=60))
def test_forged_lines_are_counted_or_refused(forged: list[tuple[str, str, str, str, bool]]) -> None:
    """Whatever handlers print, a line is counted or refused with a reason, and the text stays one that can be read."""
    found, registry = metrics(auto_detect=True)
    for name, key, value, kind, first in forged:
        try:
            found.take(ONE if first else TWO, line(name, value, f"{key}:{name}", kind or "GAUGE"))
        except RefusedError as error:
            assert error.reason in {"line", "unknown", "name", "labels", "value", "series"}  # noqa: PT017
    samples(registry.text())
    found.forget(ONE)
    found.forget(TWO)
    assert samples(registry.text()) == {}
