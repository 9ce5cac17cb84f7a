from __future__ import annotations

from serving.protocol import limits


# The limits of replies are the frontend's: a larger value here would let an answer through that ends the worker.
def test_the_limits_of_replies_are_the_frontends() -> None:
    assert limits.MAX_RESPONSE_SIZE == 6_553_500
    assert limits.MAX_RESPONSE_HEADER == 6_500_000


# 8,192 bytes of headers, at least three bytes each ("a:" and a line end): no client reaches our bound.
def test_no_client_can_send_more_headers_than_are_accepted() -> None:
    assert limits.MAX_HEADERS > 8192 // 3


def test_every_bound_is_an_int_of_the_wire() -> None:
    bounds = [value for name, value in vars(limits).items() if name.isupper()]
    assert len(bounds) >= 8
    assert all(0 < bound <= limits.INT_MAX for bound in bounds)
