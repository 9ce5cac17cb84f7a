"""The management API (port 8081): list, describe, register, scale, set-default, traffic, unregister."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final

from archive_tool.metadata.names import check_model_name
from serving.client.models import ModelSummary, ModelVersion
from serving.client.transport import Address, Transport, model_path
from serving.errors import ModelApiOffError, ReplyError

PAGE = 100
#: Bytes of an answer, and pages of a list.
MOST_ANSWER: Final = 64 << 20
MOST_PAGES: Final = 1000
_TRAFFIC = "/models/{model_name}/{model_version}/traffic"


class ManagementClient:
    """Typed calls of the management API.

    Every method raises `serving.errors.NotRunningError` if the server does not listen and
    `serving.errors.ReplyError` with the server's own message if it refuses.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @classmethod
    def at(cls, address: str, *, timeout_s: float = 120.0, token: str | None = None) -> ManagementClient:
        """Return a client of the server at ``address``, such as ``http://127.0.0.1:8081``."""
        return cls(Transport(Address(address), timeout_s=timeout_s, token=token, most=MOST_ANSWER))

    def __enter__(self) -> ManagementClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()

    def models(self) -> tuple[ModelSummary, ...]:
        """Return all registered models, page by page."""
        rows: list[ModelSummary] = []
        token: str | None = None
        for _ in range(MOST_PAGES):
            params = {"limit": str(PAGE)} | ({"next_page_token": token} if token else {})
            document = self._transport.checked("GET", "/models", params=params).json()
            with _as_described("/models"):
                rows += [ModelSummary.from_dict(row) for row in document.get("models") or ()]
                token = document.get("nextPageToken")
            if not token:
                return tuple(rows)
        raise ReplyError(f"the server lists models on more than {MOST_PAGES} pages", status=200, where="/models")

    def describe(self, name: str, version: str | None = None) -> tuple[ModelVersion, ...]:
        """Describe one version of a model, or all of them (the default one marked) if no version is given."""
        rows = self.rows(name, version)
        with _as_described(model_path("models", name, version or "all")):
            return tuple(ModelVersion.from_dict(row, default=default) for row, default in rows)

    def rows(self, name: str, version: str | None = None) -> tuple[tuple[dict[str, Any], bool], ...]:
        """Describe versions as `describe` does: all that the server says of each, and whether it is the default one."""
        default = self._describe(model_path("models", name, None))
        wanted = self._describe(model_path("models", name, version or "all"))
        default_version = str(default[0].get("modelVersion")) if default else ""
        return tuple((row, str(row.get("modelVersion")) == default_version) for row in wanted)

    def default_version(self, name: str) -> ModelVersion:
        """Return the version that requests without a version reach.

        Raises:
            ReplyError: the server describes no version of the model.
        """
        path = model_path("models", name, None)
        rows = self._describe(path)
        if not rows:
            raise ReplyError(f"the server describes no version of {name}", status=200)
        with _as_described(path):
            return ModelVersion.from_dict(rows[0], default=True)

    def _describe(self, path: str) -> list[dict[str, Any]]:
        rows = self._transport.checked("GET", path).json()
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise _unexpected(path, f"it is no list of objects: {rows!r:.200}")
        return rows

    def register(
        self,
        archive: str,
        *,
        name: str | None = None,
        workers: int = 1,
        batch_size: int | None = None,
        max_batch_delay_ms: int | None = None,
        response_timeout_s: int | None = None,
        wait: bool = True,
    ) -> str:
        """Register an archive of the server's model store and start its workers.

        Args:
            archive: file name inside the model store.
            name: name of the model; by default the manifest's.
            workers: how many to start; with 0 the model is registered only.
            batch_size: maximum number of requests in a batch.
            max_batch_delay_ms: milliseconds to wait for a batch to fill.
            response_timeout_s: seconds that a worker may take for a batch.
            wait: return when the workers are ready (otherwise when the request was accepted).

        Returns:
            The server's status line.

        Raises:
            ModelApiOffError: the server takes no models while it runs.
            archive_tool.errors.BuildError: no model can have that name.
        """
        if name is not None:
            check_model_name(name)
        options: dict[str, Any] = {
            "url": archive,
            "model_name": name,
            "initial_workers": workers,
            "batch_size": batch_size,
            "max_batch_delay": max_batch_delay_ms,
            "response_timeout": response_timeout_s,
            "synchronous": str(wait).lower(),
        }
        params = {key: str(value) for key, value in options.items() if value is not None}
        return self._model_api("POST", "/models", params)

    def scale(
        self,
        name: str,
        *,
        min_workers: int,
        max_workers: int | None = None,
        version: str | None = None,
        wait: bool = True,
    ) -> str:
        """Set the number of workers of a model's version (of the default one if none is given)."""
        params = {
            "min_worker": str(min_workers),
            "max_worker": str(min_workers if max_workers is None else max_workers),
            "synchronous": str(wait).lower(),
        }
        return self._status("PUT", model_path("models", name, version), params)

    def set_default(self, name: str, version: str) -> str:
        """Make a version the one that requests without a version reach."""
        return self._status("PUT", model_path("models", name, version) + "/set-default")

    def share(
        self,
        name: str,
        version: str,
        *,
        percent: int,
        shadow: bool = False,
        sticky_headers: Sequence[str] | None = None,
    ) -> str:
        """Give a version a share of the requests that name none, or copies of them.

        Args:
            name: name of the model.
            version: version of it, not the default one.
            percent: of these requests, 0 to 100; with 0 the share ends.
            shadow: give it copies, whose answers nobody sees.
            sticky_headers: requests with the same value of the first of these that they have go to the same version;
                empty for none, None to leave them as they are.

        Returns:
            The server's status line.

        Raises:
            ReplyError: the frontend is one that knows no shares.
        """
        path = model_path("models", name, version) + "/traffic"
        # TorchServe's would take the call for that of scaling. Of a model, as where all APIs share one address
        # /api-description is about inference.
        known = self._transport.checked("OPTIONS", model_path("models", name, None)).json()
        paths = known.get("paths") if isinstance(known, dict) else None
        if not isinstance(paths, dict) or _TRAFFIC not in paths:
            raise ReplyError(
                "this server's frontend cannot share requests out between versions; torchmar's own can",
                status=405,
                where=path,
                hint="start the server with torchmar start --frontend python",
            )
        params = {"percent": str(percent), "shadow": str(shadow).lower()}
        if sticky_headers is not None:
            params["sticky_header"] = ",".join(sticky_headers)
        return self._status("PUT", path, params)

    def unregister(self, name: str, version: str | None = None) -> str:
        """Remove a version of a model (the default one if none is given) and end its workers.

        Raises:
            ModelApiOffError: the server removes no models while it runs.
        """
        return self._model_api("DELETE", model_path("models", name, version))

    def _model_api(self, method: str, path: str, params: dict[str, str] | None = None) -> str:
        try:
            return self._status(method, path, params)
        except ReplyError as error:
            if error.status == 405:
                raise ModelApiOffError(error.where) from error
            raise

    def _status(self, method: str, path: str, params: dict[str, str] | None = None) -> str:
        document = self._transport.checked(method, path, params=params).json()
        return str(document.get("status", "")) if isinstance(document, dict) else str(document)


@contextmanager
def _as_described(path: str) -> Iterator[None]:
    """Read what a server describes.

    Raises:
        ReplyError: it is described as no server of TorchServe's API does.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise _unexpected(path, f"{type(error).__name__}: {error!s:.200}") from error


def _unexpected(path: str, problem: str) -> ReplyError:
    hint = "is this the address of a management API?"
    return ReplyError(f"the description of models cannot be read: {problem}", status=200, where=path, hint=hint)
