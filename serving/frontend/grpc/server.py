"""Where gRPC is served: beside the HTTP listeners, in the same event loop, from the first call to the drain.

A call is answered by `grpc.aio`, whose own threads do HTTP/2 without holding up the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc

from serving.errors import StartError
from serving.frontend.apps.keys import Keys, Kind
from serving.frontend.engine import Engine
from serving.frontend.entrance import Sampled
from serving.frontend.grpc import messages
from serving.frontend.grpc.calls import Calls, KeyCheck
from serving.frontend.grpc.inference import Inference
from serving.frontend.grpc.management import Management
from serving.frontend.grpc.openinference import OpenInference
from serving.frontend.grpc.statuses import inference_refusal
from serving.frontend.listening import Place
from serving.frontend.settings import Settings

# Seconds for those who are just calling, and for answers that are just being sent.
_LAST_S: Final = 0.2
_CLOSING_S: Final = 2.0
_HANDSHAKE_MS: Final = 20_000
_MOST_MS: Final = 2**31 - 1


class GrpcListener:
    """An API, or both, at an address; what `serving.frontend.server.Listener` is for HTTP.

    Args:
        place: that is taken already. gRPC opens a socket of its own there, which the system allows because neither
            insists on being the only one.
        apis: to be served there: ``inference``, ``management``.
        keys: None where requests need none.
        access: takes what the access log has; None for none.
    """

    def __init__(
        self,
        place: Place,
        apis: Sequence[Kind],
        engine: Engine,
        settings: Settings,
        keys: Keys | None,
        access: Sampled | None,
    ) -> None:
        self.place = place
        self._settings, self._keys, self._apis = settings, keys, apis
        self._calls = Calls(access)
        self._services: list[tuple[Kind, Any, Any]] = []
        if "inference" in apis:
            asked = Inference(engine, settings).methods
            tensors = OpenInference(engine, settings).methods
            self._services += [
                ("inference", messages.INFERENCE, self._calls.handler(messages.INFERENCE, asked, inference_refusal)),
                ("inference", messages.OPEN_INFERENCE, self._calls.handler(messages.OPEN_INFERENCE, tensors)),
            ]
        if "management" in apis:
            managed = Management(engine, settings).methods
            self._services.append(
                ("management", messages.MANAGEMENT, self._calls.handler(messages.MANAGEMENT, managed))
            )
        self._server: Any = None
        self._certificate: Any = None

    async def open(self) -> None:
        """Begin to accept.

        Raises:
            StartError: somebody has the address, in spite of our having taken it.
        """
        kinds = {service.full_name: kind for kind, service, _ in self._services}
        checks = [KeyCheck(self._keys, kinds)] if self._keys is not None else []
        server = grpc.aio.server(interceptors=checks, options=options(self._settings, self._apis))
        server.add_generic_rpc_handlers([handlers for _, _, handlers in self._services])
        host, port = self.place.sock.getsockname()[:2]
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self.place.tls is None:
                server.add_insecure_port(target)
            else:
                self.renew_certificate()
                first = self._certificate
                server.add_secure_port(target, grpc.dynamic_ssl_server_credentials(first, self._renewed))
        except RuntimeError as error:
            raise StartError(f"cannot listen: {self.place.key}: {error}", hint=f"correct {self.place.key}") from error
        await server.start()
        self._server = server

    def renew_certificate(self) -> None:
        """Read the certificate and its key, which can be used, for the connections to come."""
        certificate, key = (self._settings.text(name) or "" for name in ("certificate_file", "private_key_file"))
        pair = (Path(key).read_bytes(), Path(certificate).read_bytes())
        self._certificate = grpc.ssl_server_certificate_configuration([pair])

    def _renewed(self) -> Any:
        return self._certificate

    @property
    def is_open(self) -> bool:
        """Whether it accepts."""
        return self._server is not None and not self._calls.ending

    @property
    def is_asked(self) -> bool:
        """Whether somebody would notice its end."""
        return self._calls.under_way > 0

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way."""
        return self._calls.under_way > 0

    def announce_end(self) -> None:
        """Nothing: load balancers ask ``/readyz``."""

    async def accept_no_more(self) -> None:
        """Refuse new calls as UNAVAILABLE; what has come is answered.

        gRPC itself is stopped last. From then on it resets whatever comes, until its clients have heard of it, and
        they take that for CANCELLED, which nobody calls again for.
        """
        if self.is_open:
            self._calls.ending = True
            await asyncio.sleep(_LAST_S)

    async def close_idle(self) -> None:
        """Nothing: gRPC closes the connections when it is stopped."""

    async def close(self) -> None:
        """Close everything; answers that are just being sent get a moment."""
        await self.accept_no_more()
        if self._server is not None:
            await self._server.stop(_CLOSING_S)


def options(settings: Settings, apis: Sequence[Kind]) -> list[tuple[str, int]]:
    """Return gRPC's options for a listener.

    An age, or a grace, that no counter of 32 bits holds is none.
    """
    found = [
        # A second server must not share the port.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_request_size),
        # What a worker answers is bounded by max_response_size; a message is that and a few bytes.
        ("grpc.max_send_message_length", -1),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
    ]
    for what in ("max_connection_age", "max_connection_age_grace"):
        ages = [settings.number(f"grpc_{api}_{what}_ms", _MOST_MS) for api in apis]
        if min(ages) < _MOST_MS:
            found.append((f"grpc.{what}_ms", min(ages)))
    return found
