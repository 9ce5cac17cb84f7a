"""Families of series, and their text."""

from __future__ import annotations

import pytest

from serving.frontend.metering.catalogue import Kind
from serving.frontend.metering.series import Family, Registry, Silent

from .samples import samples


def test_a_counter_keeps_the_name_that_it_is_given() -> None:
    registry = Registry()
    for name in ("Requests2XX", "ts_inference_requests_total"):
        registry.add(Family(name, Kind.COUNTER, "What it is", ["Level"])).series("Host").add(2)
    text = registry.text().decode()
    assert text == (
        "# HELP Requests2XX What it is\n# TYPE Requests2XX counter\n"
        'Requests2XX{Level="Host"} 2.0\n'
        "# HELP ts_inference_requests_total What it is\n# TYPE ts_inference_requests_total counter\n"
        'ts_inference_requests_total{Level="Host"} 2.0\n'
    )


def test_a_counter_grows_and_a_gauge_shows() -> None:
    registry = Registry()
    counter = registry.add(Family("c", Kind.COUNTER, "", [])).series()
    gauge = registry.add(Family("g", Kind.GAUGE, "", [])).series()
    for value in (3.0, 1.5):
        counter.add(value)
        gauge.add(value)
    assert samples(registry.text()) == {"c{}": 4.5, "g{}": 1.5}


def test_a_histogram_counts_values_up_to_and_with_each_bound() -> None:
    registry = Registry()
    series = registry.add(Family("h", Kind.HISTOGRAM, "", ["a"], (1.0, 2.5))).series("x")
    for value in (1.0, 2.0, 99.0):
        series.add(value)
    assert samples(registry.text()) == {
        "h_bucket{'a': 'x', 'le': '1.0'}": 1,
        "h_bucket{'a': 'x', 'le': '2.5'}": 2,
        "h_bucket{'a': 'x', 'le': '+Inf'}": 3,
        "h_count{'a': 'x'}": 3,
        "h_sum{'a': 'x'}": 102,
    }


def test_names_are_those_of_samples() -> None:
    registry = Registry()
    registry.add(Family("h", Kind.HISTOGRAM, "", [], (1.0,))).series().add(1)
    registry.add(Family("Requests2XX", Kind.COUNTER, "", [])).series().add(1)
    assert samples(registry.text(["h_count", "Requests2XX"])) == {"h_count{}": 1, "Requests2XX{}": 1}
    assert registry.text(["h", "", "nothing"]) == b""


def test_labels_are_escaped() -> None:
    registry = Registry()
    registry.add(Family("Requests2XX", Kind.COUNTER, "", ["a"])).series('"\n# TYPE Requests2XX_total counter\\').add(1)
    text = registry.text()
    assert len(text.splitlines()) == 3
    assert len(samples(text)) == 1


@pytest.mark.parametrize(
    ("name", "kind", "labels"),
    [
        ("a b", Kind.GAUGE, []),
        ("9a", Kind.GAUGE, []),
        ("", Kind.GAUGE, []),
        ("a", Kind.GAUGE, ["b-c"]),
        ("a", Kind.GAUGE, ["__b"]),
        ("a", Kind.GAUGE, [""]),
        ("a", Kind.GAUGE, ["b", "b"]),
        ("a", Kind.HISTOGRAM, ["le"]),
    ],
)
def test_what_prometheus_cannot_have(name: str, kind: Kind, labels: list[str]) -> None:
    with pytest.raises(ValueError, match=r"no name of a metric|no labels of a"):
        Family(name, kind, "", labels)


@pytest.mark.parametrize("name", ["h", "h_bucket", "h_sum"])
def test_a_name_is_given_once(name: str) -> None:
    registry = Registry()
    registry.add(Family("h", Kind.HISTOGRAM, "", []))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.add(Family(name, Kind.GAUGE, "", []))


def test_a_removed_family_leaves_its_name() -> None:
    registry = Registry()
    registry.remove(registry.add(Family("a", Kind.COUNTER, "", [])))
    registry.add(Family("a", Kind.GAUGE, "", []))


def test_series_have_all_labels_and_can_be_forgotten() -> None:
    family = Family("a", Kind.GAUGE, "", ["x", "y"])
    with pytest.raises(ValueError, match="a has the labels x, y, not 1 of them"):
        family.series("1")
    assert family.series("1", "2") is family.series("1", "2")
    assert ("1", "2") in family
    family.forget("1", "2")
    family.forget("1", "2")
    assert len(family) == 0


def test_a_silent_series_takes_anything() -> None:
    Silent().add(1.0)
