"""What is asked of a server: a model, with inputs, as whole HTTP/1.1 requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from archive_tool.errors import InputError
from serving.bench.loads import Place
from serving.client.transport import Address, model_path

#: Those whose value is the request's own affair.
_OURS = ("content-length", "transfer-encoding", "connection", "host", "expect")


@dataclass(frozen=True)
class Target:
    """A model on a server.

    Attributes:
        address: of the inference API.
        token: key of TorchServe's token authorization, if it is on.
        version: of the model; None for the default one.
        explain: ask for explanations in place of predictions.
        headers: further ones of each request.
    """

    address: Address
    model: str
    version: str | None = None
    explain: bool = False
    token: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Return the path of the requests.

        Raises:
            InputError: the model's name or the version cannot stand in an address.
        """
        return model_path("explanations" if self.explain else "predictions", self.model, self.version)

    @property
    def place(self) -> Place:
        """Return where the requests go."""
        address = self.address
        return Place(address.host, address.port or 0, address.socket_path, address.encrypted, address.authorities)

    def requests(self, inputs: Iterable[tuple[bytes, str]]) -> tuple[bytes, ...]:
        """Return the requests, each with a body and its MIME type.

        Raises:
            InputError: a header is named that cannot be chosen.
        """
        return tuple(self._request(body, content_type) for body, content_type in inputs)

    def _request(self, body: bytes, content_type: str) -> bytes:
        own = {name.lower(): value for name, value in self.headers.items()}
        if taken := sorted(set(own) & set(_OURS)):
            raise InputError(f"the header {taken[0]} cannot be chosen: it is the request's own affair")
        headers = {"host": self.address.base_url.partition("://")[2], "accept": "*/*", "content-type": content_type}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        headers |= own | {"content-length": str(len(body))}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode("ascii") + body
