"""Registers and scales models of a running server so that a failure names the worker's own error and leaves nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from archive_tool.reader import open_archive
from serving.client import ManagementClient
from serving.control import access, trust
from serving.control.config import ModelSpec, read_properties
from serving.control.diagnosis import LogWatch
from serving.control.state import ServerRecord, StateFolder
from serving.errors import ModelApiOffError, ReplyError, ServingError

# How long a worker's last lines may take from the worker to the frontend's log.
_LOG_DELAY_S = 3.0
_WORKER_FAILED = (500, 507)


def model_name_of(archive: Path) -> str:
    """The name under which the frontend registers an archive when none is given: the manifest's, else the file's.

    Raises:
        archive_tool.errors.ArchiveError: it cannot be read.
    """
    with open_archive(archive) as opened:
        manifest = opened.manifest
    return manifest.model.model_name if manifest is not None else ModelSpec.parse(archive.name).name


def check_model_api(record: ServerRecord, state: StateFolder) -> None:
    """Tells before anything is done for it that a server takes no models.

    Raises:
        ModelApiOffError: its model API is off.
    """
    if not access.model_api(read_properties(state.config)):
        raise ModelApiOffError(record.management)


def admit(record: ServerRecord, state: StateFolder, archive: str) -> None:
    """Makes an archive one that a server which asks for signatures can register.

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
    """Turns the frontend's "failed to start workers" into the worker's own error, where its logs are ours to read.

    Args:
        record: of the server; None for one that somebody else started.
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
    """Removes the version that a failed, late or interrupted registration left behind; the frontend rarely does."""
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
