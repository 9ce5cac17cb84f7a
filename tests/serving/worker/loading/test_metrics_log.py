"""The grammar of metric lines."""

from __future__ import annotations

import logging

import pytest

from serving.worker.loading import metrics_log

TAIL = "|#ModelName:m,Level:Model|#type:GAUGE|#hostname:h,1700000000,id"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("Name.ms:1.5", "Name.ms:1.5"),
        ("Name.ms:1e+16", "Name.ms:1e16"),
        ("Name.ms:-1.5e+300", "Name.ms:-1.5e300"),
        ("Name.ms:2.5e-07", "Name.ms:2.5e-07"),
        ("Rate.images/s:5", "Rate.images_s:5"),
        ("Share.%:5", "Share._:5"),
        ("a-b.ms:5", "a_b.ms:5"),
        ("größe.ms:5", "gr__e.ms:5"),
        ("Two words.Milli seconds:5", "Two words.Milli seconds:5"),
    ],
)
def test_what_the_frontend_cannot_read_is_rewritten(head: str, expected: str) -> None:
    assert metrics_log.readable(f"[METRICS]{head}{TAIL}") == f"[METRICS]{expected}{TAIL}"


@pytest.mark.parametrize("line", ["", "text|#more", "[METRICS]Failed to update metric: 1e+16", "a:1e+16|#b"])
def test_other_lines_stay(line: str) -> None:
    assert metrics_log.readable(line) == line


def test_lines_of_the_metrics_logger_only(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ts.metrics.caching_metric")
    before = list(logger.filters)
    logger.filters.clear()  # another test of this process may have installed it
    try:
        metrics_log.install()
        metrics_log.install()
        assert len(logger.filters) == 1
        with caplog.at_level(logging.INFO):
            logger.info(f"[METRICS]Large.ms:1e+16{TAIL}")
            logging.getLogger("mine").info("[METRICS]Large.ms:1e+16|#")
            logger.info("%s and %d", "text", 1)
        assert caplog.messages == [f"[METRICS]Large.ms:1e16{TAIL}", "[METRICS]Large.ms:1e+16|#", "text and 1"]
    finally:
        logger.filters[:] = before
