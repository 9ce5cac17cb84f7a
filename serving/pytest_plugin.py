"""The pytest plugin: the fixture ``torchmar_server`` starts real servers with given archives.

Installed with torchmar (entry point ``pytest11``), so every pytest of the environment imports this module: it imports
nothing else before the fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

    from serving.client import InferenceClient, ManagementClient
    from serving.client.inference import Prediction


_KEYS_LAST_MIN = 7 * 24 * 60


class ServedModels:
    """A server that runs until the end of the test module.

    Attributes:
        inference: address of the inference API; management likewise.
        client: of the inference API.
        models: client of the management API.
        log_folder: of the server; model_log.log has what handlers print.
    """

    def __init__(
        self, inference: str, management: str, client: InferenceClient, models: ManagementClient, log_folder: str
    ) -> None:
        self.inference = inference
        self.management = management
        self.client = client
        self.models = models
        self.log_folder = log_folder

    def predict(self, model: str, body: Any, content_type: str | None = None) -> Prediction:
        """Ask a model.

        Args:
            model: its name.
            body: bytes, a str, or anything else for JSON.
            content_type: to send; by default application/octet-stream, text/plain or application/json.

        Returns:
            The answer, an error's too; see `Prediction.ok`.
        """
        import json

        if isinstance(body, bytes | bytearray):
            kind, data = "application/octet-stream", bytes(body)
        elif isinstance(body, str):
            kind, data = "text/plain", body.encode()
        else:
            kind, data = "application/json", json.dumps(body).encode()
        return self.client.predict(model, data, content_type=content_type or kind)


@pytest.fixture(scope="module")
def torchmar_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ServedModels]]:
    """Start TorchServe's frontend with archives on free ports, and stop it after the last test of the module.

    ``torchmar_server(*archives, workers=None, timeout=300.0, model_api=False)`` gives a `ServedModels`; asked again for
    the same, it gives the same. An archive is a ``.mar``, a ``.tar.gz`` or a folder; the model's name is the one in its
    manifest. With ``model_api=True`` tests can register and unregister models, and requests need a key, which
    ``predict``, ``client`` and ``models`` of the result send.
    """
    import contextlib
    import shutil
    from pathlib import Path

    with contextlib.ExitStack() as stack:
        running: dict[Any, ServedModels] = {}

        def start(
            *archives: str | PathLike[str],
            workers: int | None = None,
            timeout: float = 300.0,
            model_api: bool = False,
        ) -> ServedModels:
            from serving.client import InferenceClient
            from serving.control import StartOptions, StateFolder, stop
            from serving.control import start as begin
            from serving.control.keys import current_key
            from serving.control.server import management_client

            paths = tuple(Path(archive).resolve() for archive in archives)
            if not paths or len({path.name for path in paths}) < len(paths):
                raise ValueError("name at least one archive, and none of them twice")
            key = paths, workers, model_api
            if key in running:
                return running[key]
            folder = tmp_path_factory.mktemp("served")
            store = folder / "model_store"
            store.mkdir()
            for path in paths:
                # A copy: the archive may be built anew while this server runs.
                copy: Any = shutil.copytree if path.is_dir() else shutil.copyfile
                copy(path, store / path.name)
            config = folder / "config.properties"
            # Not the one of the current folder; and the keys, if there are any, must last longer than the tests.
            config.write_text(f"token_expiration_min={_KEYS_LAST_MIN}\n")
            state = StateFolder("pytest", folder / "state")
            options = StartOptions(
                name="pytest",
                models=tuple(path.name for path in paths),
                model_store=store,
                ts_config=config,
                workers=workers,
                port="auto",
                timeout_s=timeout,
                enable_model_api=model_api,
            )
            record = begin(options, state).record
            stack.callback(stop, state)
            client = stack.enter_context(
                InferenceClient.at(record.inference, timeout_s=timeout, token=current_key(record, state, "inference"))
            )
            models = stack.enter_context(management_client(record, state, timeout_s=timeout))
            running[key] = ServedModels(record.inference, record.management, client, models, record.log_folder)
            return running[key]

        yield start
