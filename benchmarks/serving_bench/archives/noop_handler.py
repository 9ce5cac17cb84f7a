"""Does nothing: what is left is the cost of the server."""


class NoOp:
    """Answers with the number of bytes of the request's body."""

    def initialize(self, context: object) -> None:
        """Load nothing."""

    def handle(self, data: list[dict[str, bytes]], context: object) -> list[str]:  # noqa: ARG002
        """Give one number a request."""
        return [str(len(row["body"])) for row in data]
