"""Rates and percentiles between two looks at a server's metrics."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from hypothesis import given
from hypothesis import strategies as some

from serving.control.configuration.config import default_properties
from serving.frontend.apps.console.shown import figures
from serving.frontend.apps.console.shown.figures import NAMES, Counts, Watch, percentile, read, sample_of
from serving.frontend.apps.console.sources import Served, Source
from serving.frontend.metering.server import ServerMeters
from serving.frontend.settings import Place, home_of, of

ROW = {"modelName": "m", "modelVersion": "1.0", "jobQueueStatus": {"pendingRequests": 3, "remainingCapacity": 97}}
SERVED = Served.from_dict(ROW, default=True)


def text(requests: float, **below: float) -> str:
    labels = 'model_name="m",model_version="1.0"'
    lines = [f'ts_inference_requests_total{{{labels},hostname="h"}} {requests}', 'Requests5XX{Level="Host"} 2.0']
    buckets = [f'torchmar_request_seconds_bucket{{le="{le}",{labels}}} {count}' for le, count in below.items()]
    return "\n".join(["# HELP x y", *lines, *buckets, "torchmar_other 1.0"])


def test_what_happened_between_two_looks() -> None:
    before = read(text(10, **{"0.01": 5.0, "0.1": 10.0, "+Inf": 10.0}))
    now = read(text(30, **{"0.01": 15.0, "0.1": 30.0, "+Inf": 30.0}))
    sample = sample_of([SERVED], now, before, 2.0, 1.5e9)
    assert (sample["requests"], sample["failed"], sample["bad"]) == (10.0, 0.0, 0.0)
    assert (sample["p50"], sample["waiting"]) == (10.0, 3)
    (row,) = sample["models"]
    assert (row["name"], row["requests"], row["p50"]) == ("m", 10.0, 10.0)
    assert 90 < row["p99"] <= 100
    unknown = sample_of([SERVED], read(""), read(""), 2.0, 1.5e9)
    assert (unknown["requests"], unknown["models"][0]["requests"]) == (None, None), "its metrics are off"
    first = sample_of([SERVED], now, None, 1.0, 1.5e9)
    assert (first["requests"], first["p50"]) == (None, None)


def test_a_server_without_histograms_has_a_mean() -> None:
    def counts(requests: float, spent: float) -> Counts:
        line = 'ts_inference_{}{{model_name="m",model_version="1.0"}} {}\n'
        return read(line.format("requests_total", requests) + line.format("latency_microseconds", spent))

    sample = sample_of([SERVED], counts(30, 90_000), counts(10, 50_000), 2.0, 0.0)
    assert (sample["p50"], sample["mean"], sample["models"][0]["mean"]) == (None, 2.0, 2.0)


def test_requests_without_a_version_are_the_default_ones() -> None:
    def counts(requests: float) -> Counts:
        return read(f'ts_inference_requests_total{{model_name="m",model_version="default"}} {requests}')

    other = replace(SERVED, of=replace(SERVED.of, version="2.0", default=False))
    sample = sample_of([SERVED, other], counts(30), counts(10), 2.0, 0.0)
    assert [row["requests"] for row in sample["models"]] == [10.0, 0.0]
    assert sample["requests"] == 10.0


def test_a_server_that_was_restarted_has_no_negative_rates() -> None:
    sample = sample_of([SERVED], read(text(1)), read(text(100)), 2.0, 0.0)
    assert sample["requests"] == 0.0


def test_names_are_read_as_prometheus_escapes_them() -> None:
    found = read('ts_inference_requests_total{model_name="a\\"b\\\\c",model_version="x,y"} 1.0')
    assert list(found.values["ts_inference_requests_total"]) == [('a"b\\c', "x,y")]


@given(some.lists(some.integers(0, 1000), min_size=1, max_size=8), some.floats(0.01, 0.99))
def test_a_percentile_lies_in_its_bucket(counts: list[int], share: float) -> None:
    total, below = 0, {}
    for number, count in enumerate(counts):
        total += count
        below[float(number + 1)] = float(total)
    below[math.inf] = float(total)
    found = percentile(share, below, {})
    if not total:
        assert found is None
        return
    assert found is not None
    bound = next(bound for bound in sorted(below) if below[bound] >= share * total)
    assert max(0.0, bound - 1) <= found <= bound + 1e-9


def test_a_real_servers_numbers_are_found(tmp_path: Path) -> None:
    place = Place(tmp_path, home_of(None), tmp_path, tmp_path, tmp_path)
    meters = ServerMeters(of(default_properties(), place, {}))
    meters.answered("m", "1.0", queue_s=0.001, total_s=0.004, batch=1)
    meters.level("m", "1.0", waiting=0, running=2)
    meters.responded(500)
    found = read(meters.text(NAMES).decode())
    assert found.values["ts_inference_requests_total"]["m", "1.0"] == 1.0
    assert found.values["torchmar_requests_in_flight"]["m", "1.0"] == 2.0
    assert found.values["Requests5XX"]["", ""] == 1.0
    assert found.below["m", "1.0"][0.005] == 1.0
    assert found.below["m", "1.0"][math.inf] == 1.0


class PlayedSource:
    """Counts how often it is looked at."""

    looks = 0

    async def metrics(self, names: Sequence[str]) -> str:
        self.looks += 1
        return text(10.0 * self.looks)

    async def names(self) -> Sequence[str]:
        return ["m"]

    async def versions(self, name: str) -> Sequence[Served]:
        return [SERVED]


def test_played_source_is_looked_at_while_somebody_watches_and_once_for_all() -> None:
    async def work() -> None:
        source = PlayedSource()
        watch = Watch(cast("Source", source), every_s=0.03)

        async def view(count: int, after: int = 0) -> list[int]:
            found = []
            samples = watch.samples(after)
            async for number, sample in samples:
                assert sample["waiting"] == 3
                found.append(number)
                if len(found) == count:
                    await samples.aclose()  # type: ignore[attr-defined]
                    break
            return found

        assert await asyncio.gather(view(4), view(4)) == [[1, 2, 3, 4]] * 2
        looks = source.looks
        await asyncio.sleep(0.05)
        assert source.looks <= looks + 1, "nobody watches"
        # Who comes again with the number of his last look is not told it again.
        assert (await view(1, after=4))[0] > 4
        assert (await view(2))[:1] == [1]

        ending = asyncio.ensure_future(view(10_000))
        await asyncio.sleep(0.03)
        watch.end()
        assert len(await asyncio.wait_for(ending, 5)) < 10_000

    asyncio.run(work())


def test_what_is_kept_is_bounded() -> None:
    assert Watch(cast("Source", PlayedSource()))._kept.maxlen == figures.KEPT
