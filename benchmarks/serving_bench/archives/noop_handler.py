"""A handler that does nothing: what is left is the cost of the server."""


class NoOp:
    """A handler that answers with the number of bytes of the request's body."""

    def initialize(self, context: object) -> None:
        """Load nothing."""

    def handle(self, data: list[dict[str, bytes]], context: object) -> list[str]:  # noqa: ARG002
        """Return one number for each request."""
        return [str(len(row["body"])) for row in data]
