"""Start of a server, the wait until its models are ready, and its stop."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil

from serving.client import ManagementClient, ModelVersion
from serving.client.transport import Address
from serving.control import clusters
from serving.control.configuration import access, frontends, java, ports
from serving.control.configuration import config as configuration
from serving.control.following.waiting import Progress, Waiting
from serving.control.keys import current_key, without_given
from serving.control.models import snapshots
from serving.control.models.versions import with_defaults
from serving.control.preparing import Prepared, StartOptions, prepare
from serving.control.processes import end_session
from serving.control.runtime_folder import remove_runtime_folder
from serving.control.state import ServerRecord, StateFolder, identity_of, named, not_running
from serving.errors import AlreadyRunningError, NotRunningError, ServingError, StartError
from serving.parent import ends_with_parent

# Seconds that the frontend may take to end by itself; one that never became ready has nothing to finish.
_GRACE_S = 30.0
_STARTING_GRACE_S = 5.0


@dataclass(frozen=True)
class Started:
    """A server whose models are ready.

    Attributes:
        seconds: from the command to the last model's being ready.
        process: the frontend's; the caller may wait for it.
        snapshot: name of the snapshot that its models were restored from; empty if they were not.
    """

    record: ServerRecord
    models: tuple[ModelVersion, ...]
    seconds: float
    process: subprocess.Popen[bytes]
    snapshot: str = ""


def _silent(*_: object, **__: object) -> None:
    return


class _Frontend(subprocess.Popen[bytes]):
    """A frontend, which may outlive the process that started it: to let go of it is no fault, which Popen warns of."""

    def __del__(self, _warn: Callable[..., None] = _silent) -> None:
        super().__del__(_warn=_warn)  # type: ignore[call-arg]


def start(
    options: StartOptions,
    state: StateFolder | None = None,
    progress: Progress = _silent,
    meanwhile: Callable[[Started], None] | None = None,
    warn: Callable[[str], None] = _silent,
) -> Started:
    """Start a server and return when every requested model has a ready worker.

    Whatever goes wrong, nothing of the server is left running, and no runtime folder stays.

    Args:
        options: what to start.
        state: where to remember it; by default the folder of ``options.name``.
        progress: called with the seconds so far and what is being waited for.
        meanwhile: called once the server is ready; what it raises, a signal's exception at any moment included,
            ends the server. For a caller that stays.
        warn: gets what is allowed but unwise, or silently ignored, before anything is started.

    Raises:
        AlreadyRunningError: a server of this name runs.
        PortInUseError: a port that it needs is taken.
        ModelLoadError: a worker failed to load its model; carries the worker's own error.
        StartError: the frontend ended, or a model was not ready in time.
        InputError, ArchiveError: a configuration or an archive cannot be used.
    """
    begun = time.monotonic()
    state = state or StateFolder(options.name)
    with state.locked():
        before = _clear_previous(state, options)
        had_model_api = before is not None and access.model_api(configuration.read_properties(state.config))
        prepared = prepare(options, state, warn)
        if had_model_api and not access.model_api(prepared.properties):
            warn("the model API was on, and this deployment turns it off: --enable-model-api keeps it")
        process = _spawn(prepared, state)
        try:
            record = _record(state, process, prepared)
            if before is None:  # else what the cluster serves is found by that record, whatever comes of this
                state.write(record)
        except BaseException:
            process.kill()
            process.wait()
            shutil.rmtree(prepared.runtime_folder, ignore_errors=True)
            raise
    grace_s, ready = _STARTING_GRACE_S, False
    try:
        connect = partial(management_client, record, state, timeout_s=10.0)
        stranger = partial(ports.is_anothers, Address(record.management).port, process.pid)
        if record.frontend == "ray":  # it listens before it has its models, or somebody listens for it
            stranger = partial(_is_deploying, prepared.runtime_folder)
        waiting = Waiting(
            process, state.logs, prepared.selection, connect, begun, progress, prepared.properties, stranger
        )
        models = waiting.until_ready(begun + options.timeout_s)
        models = _as_asked(options, prepared, models, record, state)
        if prepared.cluster:
            record = _left(record, before, prepared)
            state.write(record)
        started = Started(record, models, time.monotonic() - begun, process, prepared.snapshot)
        ready = True
        if meanwhile is not None:
            grace_s = _GRACE_S
            meanwhile(started)
    except BaseException:
        first = (prepared.runtime_folder / frontends.FIRST).exists()
        _end(record, state, process, grace_s=grace_s, forget=before is None)
        if not ready:
            snapshots.discard(state)
        if first:
            if before is not None:  # its cluster has ended meanwhile
                state.forget()
            progress(time.monotonic() - begun, "taking off the cluster what was deployed")
            _take_off(prepared.cluster, state.name, warn)
        raise
    return started


def stop(state: StateFolder, *, grace_s: float = _GRACE_S) -> int:
    """End a server and everything that its start began.

    Returns:
        How many processes had to be killed because they did not end by themselves.

    Raises:
        NotRunningError: there is none; what a dead one left is removed.
    """
    with state.locked():
        record = state.record()
        if record is None:
            raise not_running(state.name, state.path.parent.parent)
        alive = record.alive
        if record.cluster:
            alive = clusters.remove(record.cluster, state.name, grace_s=grace_s)
        killed = _end(record, state, None, grace_s=grace_s)
    if not alive:
        raise NotRunningError(
            f"server {state.name!r} had ended by itself; what it left is removed now",
            hint=f"its logs: {record.log_folder}",
        )
    return killed


def _is_deploying(runtime_folder: Path) -> bool:
    return not (runtime_folder / frontends.DEPLOYED).exists()


def management_client(record: ServerRecord, state: StateFolder, *, timeout_s: float = 120.0) -> ManagementClient:
    """Return a client of a started server, with its key if it asks for one."""
    token = current_key(record, state, "management")
    return ManagementClient.at(record.management, timeout_s=timeout_s, token=token)


def _left(record: ServerRecord, before: ServerRecord | None, prepared: Prepared) -> ServerRecord:
    """Leave a server to its cluster; of the folder of its deployment only a store of checked archives is needed."""
    record = clusters.left(record, prepared.cluster)
    if before is not None:
        remove_runtime_folder(Path(before.runtime_folder))
    if prepared.trusted_store:
        if given := prepared.launch.given_keys:
            given.unlink(missing_ok=True)
        return record
    remove_runtime_folder(prepared.runtime_folder)
    return replace(record, runtime_folder="")


def _take_off(address: str, name: str, warn: Callable[[str], None]) -> None:
    """Take off a cluster what a first deployment has left there, which has failed."""
    try:
        clusters.remove(address, name, grace_s=_GRACE_S)
    except ServingError as error:  # the failure before it is what there is to be said
        warn(f"what was deployed may still be there: {error.message}")


def _clear_previous(state: StateFolder, options: StartOptions) -> ServerRecord | None:
    """Make room for a server; return the record of one that its cluster has, and that may be deployed there anew."""
    record = state.record()
    if record is None:
        state.forget()
        return None
    if record.cluster and record.cluster == options.settings.get(frontends.RAY_ADDRESS):
        return record
    if record.alive:
        on_ray = options.frontend == "ray"
        anew = f"; --address {record.cluster} deploys anew to it" if on_ray and record.cluster else ""
        another = f"torchmar {'deploy ray' if on_ray else 'start'} --name OTHER --port auto starts a second one"
        raise AlreadyRunningError(
            f"server {state.name!r} is running already ({record.whereabouts}, {record.inference})",
            hint=f"torchmar stop{named(state.name)} ends it{anew}; {another}",
        )
    _end(record, state, None, grace_s=0.0)
    return None


def _spawn(prepared: Prepared, state: StateFolder) -> subprocess.Popen[bytes]:
    launch = prepared.launch
    # A foreground server is part of the command, however that ends, and so is a deployment; Linux alone has this.
    together = (launch.console or prepared.cluster) and sys.platform == "linux"
    try:
        with (state.logs / launch.output).open("wb") as log:
            return _Frontend(
                launch.command(),
                cwd=state.path,
                env=without_given(launch.environment()),
                stdin=subprocess.DEVNULL,
                stdout=None if launch.console else log,
                stderr=log,
                # A session of its own: see processes.py; and Ctrl-C reaches us first.
                start_new_session=True,
                preexec_fn=ends_with_parent() if together else None,
            )
    except BaseException as error:
        shutil.rmtree(prepared.runtime_folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise StartError(f"{launch.program} cannot be started: {error}") from error
        raise


def _record(state: StateFolder, process: subprocess.Popen[bytes], prepared: Prepared) -> ServerRecord:
    properties, launch = prepared.properties, prepared.launch
    has_grpc = launch.serves_grpc(properties)

    def grpc(api: str) -> str:
        return f"{properties[f'grpc_{api}_address']}:{properties[f'grpc_{api}_port']}" if has_grpc else ""

    return ServerRecord(
        name=state.name,
        pid=process.pid,
        started=psutil.Process(process.pid).create_time(),
        inference=properties["inference_address"],
        management=properties["management_address"],
        metrics=properties["metrics_address"] if launch.has_metrics else "",
        grpc_inference=grpc("inference"),
        grpc_management=grpc("management"),
        model_store=str(prepared.user_store),
        runtime_folder=str(prepared.runtime_folder),
        log_folder=str(state.logs),
        worker=java.worker_name(launch.home),
        trusted_store=prepared.trusted_store,
        frontend=launch.name,
        identity=identity_of(process.pid),
    )


def _end(
    record: ServerRecord,
    state: StateFolder,
    process: subprocess.Popen[bytes] | None,
    *,
    grace_s: float,
    forget: bool = True,
) -> int:
    """End the processes, then remove what they used, and the record, unless a cluster still has a server of before."""
    ours = record.alive or (process is not None and process.poll() is None)
    killed = 0 if record.cluster else end_session(record.pid, leader_is_ours=ours, grace_s=grace_s)
    if process is not None:
        process.wait()
    remove_runtime_folder(Path(record.runtime_folder))
    if not forget:
        return killed
    current = state.record()
    # Meanwhile another command may have stopped this server and started one of the same name.
    if current is None or (current.pid, current.started) == (record.pid, record.started):
        state.forget()
    return killed


def _as_asked(
    options: StartOptions,
    prepared: Prepared,
    models: tuple[ModelVersion, ...],
    record: ServerRecord,
    state: StateFolder,
) -> tuple[ModelVersion, ...]:
    """Correct what the frontend does otherwise than asked: the number of workers, and which version is the default."""
    with management_client(record, state) as client:
        if not prepared.snapshot:  # it says which version is the default
            models = with_defaults(client, models, prepared.properties, by_age=not prepared.cluster)
        # What a cluster had before stays as it is, and is told of last.
        before = [model for model in models if prepared.cluster and not prepared.selection.names(model.url)]
        asked = [model for model in models if model not in before]
        if options.workers is not None:
            asked = _scale_to(options.workers, asked, client)
        return (*asked, *before)


def _scale_to(workers: int, models: Sequence[ModelVersion], client: ManagementClient) -> list[ModelVersion]:
    """Scale to the command line's number, which wins over ``minWorkers`` of a model, which wins in the frontend."""
    for model in models:
        if model.min_workers != workers:
            client.scale(model.name, min_workers=workers, version=model.version)
    return [client.describe(model.name, model.version)[0] for model in models]
