"""Registration and scaling on a running server: a failure names the worker's own error and leaves nothing behind."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from archive_tool.errors import InputError
from serving.client import ManagementClient, ModelVersion
from serving.control.configuration import access
from serving.control.configuration.config import is_url, read_properties
from serving.control.following.diagnosis import LogWatch
from serving.control.models import trust
from serving.control.models.store import archive_to_load, config_of, default_name
from serving.control.state import ServerRecord, StateFolder
from serving.errors import ModelApiOffError, ReplyError, ServingError

# How long a worker's last lines may take from the worker to the frontend's log.
_LOG_DELAY_S = 3.0
_WORKER_FAILED = (500, 507)
# How the frontend, whichever it is, says what it has registered.
_REGISTERED = re.compile(r'Model "(?P<name>.+)" Version: (?P<version>.+) registered with \d+ initial workers')


@dataclass(frozen=True)
class Asked:
    """What a registration asks for; None leaves it to the archive's own configuration, and then to the server's.

    Attributes:
        workers: how many to start.
        batch_size: maximum number of requests in a batch.
        max_batch_delay_ms: milliseconds to wait for a batch to fill.
        response_timeout_s: seconds that a worker may take for a batch.
    """

    workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int | None = None

    def check(self, archive: Path) -> None:
        """Refuse what the frontend would take from the archive's own configuration, whatever it is asked.

        Raises:
            InputError: the archive says something else.
            archive_tool.errors.ArchiveError: it cannot be read.
        """
        own = config_of(archive).value("responseTimeout")
        if self.response_timeout_s not in (None, own) and own is not None:
            raise _beaten("response timeout", self.response_timeout_s, own, "responseTimeout", archive.name)


def _beaten(what: str, asked: int | None, own: int, key: str, archive: str) -> InputError:
    return InputError(
        f"the {what} cannot be {asked}: {key} of the archive's model-config.yaml wins in TorchServe, and is {own}",
        where=archive,
        hint=f"write {key}: {asked} in model-config.yaml (without the line it is TorchServe's default), and build anew",
    )


def register(client: ManagementClient, archive: str, asked: Asked, *, name: str | None = None) -> str:
    """Register an archive so that what was asked for holds, and not what the archive's own configuration says.

    Args:
        client: of the server.
        archive: its name in the server's model store, or a URL.
        asked: for the model; `Asked.check` refuses sooner what is refused here.
        name: of the model; by default the archive's own.

    Returns:
        The server's status line.

    Raises:
        ReplyError: the server refused it.
        InputError: the frontend does not let one override the archive; the model is not registered.
    """
    message = client.register(
        archive,
        name=name,
        workers=1 if asked.workers is None else asked.workers,
        batch_size=asked.batch_size,
        max_batch_delay_ms=asked.max_batch_delay_ms,
        response_timeout_s=asked.response_timeout_s,
    )
    found = _REGISTERED.match(message)
    if found is None:
        return message
    try:
        return _settle(client, archive, asked, client.describe(found["name"], found["version"])[0]) or message
    except BaseException:
        with suppress(ServingError):
            client.unregister(found["name"], found["version"])
        raise


def _settle(client: ManagementClient, archive: str, asked: Asked, model: ModelVersion) -> str:
    """Make a registered model what was asked for; return what it is now if that took more than the registration."""
    for what, key, value, own in (
        ("batch size", "batchSize", asked.batch_size, model.batch_size),
        ("batch delay", "maxBatchDelay", asked.max_batch_delay_ms, model.max_batch_delay_ms),
        ("response timeout", "responseTimeout", asked.response_timeout_s, model.response_timeout_s),
    ):
        if value not in (None, own):
            raise _beaten(what, value, own, key, archive)
    if asked.workers is None or asked.workers == model.min_workers:
        return ""
    # minWorkers of the archive won; a scaling wins over that.
    client.scale(model.name, min_workers=asked.workers, version=model.version)
    return f'Model "{model.name}" Version: {model.version} registered with {asked.workers} initial workers'


def prepare(
    record: ServerRecord, state: StateFolder, archive: str, asked: Asked, name: str | None
) -> tuple[str, str | None]:
    """Check a registration before the server hears of it.

    Args:
        record: of the server.
        state: of the server.
        archive: as the user named it.
        asked: for the model.
        name: of the model, if one was given.

    Returns:
        The archive as the server must name it, and the model's name; None for one that only the server will see.

    Raises:
        InputError: the archive is not in the store, or a URL that the server may not fetch, or the server would not do
            what is asked, or it registers nothing any more.
        archive_tool.errors.ArchiveError: it cannot be read, or is not signed with the server's key.
    """
    store = Path(record.model_store)
    told = archive_to_load(archive, store, read_properties(state.config))
    if is_url(told):
        return told, name
    asked.check(store / told)
    name = name or default_name(store / told)
    if record.trusted_store:
        admit(record, state, told)
    return told, name


def check_model_api(record: ServerRecord, state: StateFolder) -> None:
    """Refuse early if a server takes no models.

    Raises:
        ModelApiOffError: the server's model API is off.
    """
    if not access.model_api(read_properties(state.config)):
        raise ModelApiOffError(record.management)


def admit(record: ServerRecord, state: StateFolder, archive: str) -> None:
    """Make an archive registrable at a server that asks for signatures.

    Args:
        record: of the server.
        state: of the server.
        archive: its name in the server's model store.

    Raises:
        archive_tool.errors.ArchiveError: it is not signed with the server's key.
    """
    trust.admit(Path(record.model_store) / archive, Path(record.trusted_store), state.signature_key)


@contextmanager
def explained(record: ServerRecord | None, model: str) -> Iterator[None]:
    """Turn the frontend's "failed to start workers" into the worker's own error, where we can read its logs.

    Args:
        record: of the server; None for one that torchmar did not start.
        model: whose workers are being started.

    Raises:
        ModelLoadError: instead of the frontend's ReplyError.
    """
    watch = LogWatch(Path(record.log_folder)) if record else None
    try:
        yield
    except ReplyError as error:
        if watch is None or error.status not in _WORKER_FAILED:
            raise
        deadline = time.monotonic() + _LOG_DELAY_S
        while time.monotonic() < deadline:
            watch.poll()
            if failure := watch.failure(model):
                raise failure.error(watch.folder) from error
            time.sleep(0.1)
        if watch.lines_of(model) or watch.times_failed(model):
            raise watch.bare_failure(model).error(watch.folder) from error
        raise


@contextmanager
def rolled_back(client: ManagementClient, model: str) -> Iterator[None]:
    """Remove the version that a failed, late or interrupted registration left behind; the frontend rarely does."""
    before = _versions(client, model)
    try:
        yield
    except BaseException as error:
        # 0: no answer in time; the registration would go on in the server.
        if not isinstance(error, ReplyError) or error.status in (0, *_WORKER_FAILED):
            with suppress(ServingError):
                for version in _versions(client, model) - before:
                    client.unregister(model, version)
        raise


def _versions(client: ManagementClient, model: str) -> set[str]:
    try:
        return {entry.version for entry in client.describe(model)}
    except ReplyError as error:
        if error.status == 404:
            return set()
        raise
