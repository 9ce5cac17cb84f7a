from __future__ import annotations

import httpx
import pytest

from benchmarks import observing
from benchmarks.observing import AGAIN, OFF, Turn, contender, parse, receiving, report


def test_ratios_are_of_one_round() -> None:
    base = [Turn(1000, 2.0, 0, 100, 60), Turn(500, 4.0, 0, 200, 120), Turn(800, 2.0, 0, 100, 60)]
    traced = [Turn(500, 3.0, 1, 150, 110), Turn(250, 6.0, 0, 300, 220), Turn(400, 3.0, 2, 150, 110)]
    text = report({OFF: base, "traces, 1.0": traced}, (1.0, 4.25))
    off, mine = text.splitlines()[2:4]
    assert [cell.strip() for cell in off.split("|")[1:-1]] == [OFF, "800", "100", "60.0", "2.00", "0"]
    cells = [cell.strip() for cell in mine.split("|")[1:-1]]
    assert cells == ["traces, 1.0", "400 (0.500)", "150 (1.500)", "110 (1.833)", "3.00 (1.500)", "3"]
    assert text.endswith("with a console open 4.2 ms.")


def test_what_is_watched_is_in_settings_and_environment() -> None:
    assert contender(OFF, "http://r").settings == contender(AGAIN, "http://r").settings == ""
    assert dict(contender(OFF, "http://r").environ) == {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}
    traced = dict(contender("traces, 0.01", "http://r").environ)
    assert (traced["OTEL_EXPORTER_OTLP_ENDPOINT"], traced["OTEL_TRACES_SAMPLER_ARG"]) == ("http://r", "0.01")
    assert "torchmar_capture_share=0.01" in contender("capture, 0.01", "http://r").settings


def test_options() -> None:
    options = parse(["--quick", "--chosen", "off; traces, 1.0"])
    assert (options.rounds, options.connections, options.chosen) == (1, (8,), [OFF, "traces, 1.0"])
    assert parse([]).chosen == list(observing._SETTINGS)
    with pytest.raises(SystemExit):
        parse(["--chosen", "nothing"])


def test_the_receiver_takes_what_comes() -> None:
    with receiving() as address:
        assert httpx.post(f"{address}/v1/traces", content=b"x").status_code == 200
