"""A handler that answers in parts, as a generator of text does, with no model behind it."""

from ts.handler_utils.utils import send_intermediate_predict_response

_PARTS = 16


class Stream:
    """A handler that answers with short parts, each a chunk of the HTTP response."""

    def initialize(self, context: object) -> None:
        """Load nothing."""

    def handle(self, data: list[dict[str, bytes]], context: object) -> list[str]:
        """Send all but the last part of each reply, and return the last."""
        for number in range(_PARTS - 1):
            parts = [f"token {number} "] * len(data)
            send_intermediate_predict_response(parts, context.request_ids, "part", 200, context)
        return ["end"] * len(data)
