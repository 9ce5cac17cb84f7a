"""The state of a handler before the first request: the archive's model, and the archive's metadata."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.batch.prepared import current, is_sdks
from handlers.device import pick_device
from handlers.errors import LoadError
from handlers.loading import load
from handlers.loading.labels import load_label_mapping
from handlers.optimization import compile_cache
from handlers.optimization.aot import with_compiled
from handlers.optimization.apply import optimize_model, unasked
from handlers.optimization.settings import INDUCTOR, Optimization, compile_options, is_inductors, read
from handlers.optimization.torch_compile import compile_model

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

    from handlers.context import Context

logger = logging.getLogger(__name__)


class ModelHolder:
    """The archive's model; the part of `BaseHandler` that runs once."""

    #: Whether answers name classes, so that an archive without names for them deserves a warning.
    names_classes: bool = False

    _current_context: Context | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: ARG004
        """Set what a batch needs, also where a subclass overrides `__init__` and `initialize` and calls neither."""
        handler = super().__new__(cls)
        handler.model_yaml_config = {}
        handler._eager_model = None
        return handler

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, str] | None = None
        self.device: torch.device | None = None
        self.initialized = False
        self.model_pt_path: str | None = None
        self.manifest: dict[str, Any] | None = None
        self.map_location: str | None = None
        self.model_yaml_config: dict[str, Any] = {}
        self._eager_model: Any = None

    @property
    def context(self) -> Context | None:
        """The worker's context of the current batch of this thread; before the first one, that of `initialize`."""
        preparation = current.get()
        if preparation is None or preparation.handler is not self:
            return self._current_context
        return preparation.context

    @context.setter
    def context(self, context: Context | None) -> None:
        preparation = current.get()
        if preparation is None or preparation.handler is not self:
            self._current_context = context
        else:
            preparation.context = context

    def initialize(self, context: Context) -> None:
        """Load the model. Runs once, before the first request.

        Sets `device`, `manifest`, `model_yaml_config`, `model_pt_path`, `model` (in eval mode, on the device, optimized
        as the sections `optimize` and `pt2` say, or compiled ahead of time in the archive) and `mapping`. With a model
        file in the manifest the model is eager, without one the serialized file is a program. Without a manifest
        nothing is loaded, and `model` stays None.

        Raises:
            LoadError: the model cannot be loaded.
        """
        self.context = context
        self.model_yaml_config = getattr(context, "model_yaml_config", None) or {}
        properties = context.system_properties
        self.device = pick_device(properties.get("gpu_id"))
        self.map_location = self.device.type
        self.manifest = context.manifest
        model_dir = str(properties.get("model_dir") or "")

        if self.manifest is None:
            logger.warning("There is no manifest, so no model was loaded")
        else:
            self._load_model(model_dir, self.manifest.get("model") or {})
        names = Path(model_dir, "index_to_name.json")
        self.mapping = load_label_mapping(names) if self.names_classes or names.exists() else None
        self.initialized = True

    def _load_model(self, model_dir: str, entry: dict[str, Any]) -> None:
        begin = time.perf_counter()
        optimization, pt2 = read(self.model_yaml_config), compile_options(self.model_yaml_config)
        model_file, weights = entry.get("modelFile"), entry.get("serializedFile")
        self.model_pt_path = str(Path(model_dir, weights)) if weights else None
        if model_file:
            self.model = self._load_pickled_model(model_dir, model_file, self.model_pt_path)
            self.model.to(self.device)
        elif self.model_pt_path:
            self.model = self._load_torchscript_model(self.model_pt_path)
        else:
            raise LoadError(
                "the archive holds neither a model file nor a serialized file",
                hint="build it with --serialized-file, or override initialize in the handler",
            )
        if hasattr(self.model, "eval"):
            self.model.eval()
        logger.info(
            "Loaded %s from %s on %s in %.2f s",
            load.describe(self.model),
            " and ".join(name for name in (model_file, weights) if name),
            self.device,
            time.perf_counter() - begin,
        )
        self._speed_up(self.model, optimization, pt2, Path(model_dir))

    def _speed_up(
        self, plain: Any, optimization: Optimization | None, pt2: dict[str, Any] | None, folder: Path
    ) -> None:
        """Use the model compiled ahead of time, if the archive has one that fits; else do as model-config.yaml says."""
        ahead = with_compiled(plain, self.manifest, folder, self.device, optimization)
        if ahead is not None:
            self.model = ahead
            return
        asked = None if optimization is None else optimization.compile
        if (asked is not None and asked.backend == INDUCTOR) or (pt2 is not None and is_inductors(pt2)):
            compile_cache.use_own_folder(self.device)
            compile_cache.load(self.manifest, folder, self.device)
        if optimization is None and pt2 is None and self._is_untouched():
            optimization = unasked(plain, self.device)  # no user's code looks at the model itself
        if optimization is not None:
            self.model = optimize_model(plain, optimization, self.device, pt2=pt2)
            return
        self.model = compile_model(plain, self.model_yaml_config)
        self._eager_model = None if self.model is plain else plain

    def _is_untouched(self) -> bool:
        """Return whether only the SDK's methods run the model."""
        return all(is_sdks(getattr(self, name, None)) for name in ("initialize", "inference", "get_insights"))

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        """Load a model that needs no model file. Runs in `initialize`; `model_pt_path` is the serialized file.

        Return the model on `self.device`. Default: TorchScript, torch.export, AOTInductor or ONNX, by the content.
        """
        return load.load_program(Path(model_pt_path), self.device, weights_only=self._weights_only())

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        """Load a model that a model file defines. Runs in `initialize`.

        `model_dir` is the archive's folder, `model_file` a name in it, `model_pt_path` the serialized file or None.
        Return the model, on any device. Default: create the file's `nn.Module`, and load the state dict or the
        safetensors of the serialized file into it.
        """
        weights = Path(model_pt_path) if model_pt_path else None
        return load.load_eager(Path(model_dir, model_file), weights, weights_only=self._weights_only())

    def _weights_only(self) -> bool:
        return self._handler_config().get("weights_only", True) is not False

    def _handler_config(self) -> dict[str, Any]:
        section = self.model_yaml_config.get("handler")
        return section if isinstance(section, dict) else {}

    def get_device(self) -> torch.device | None:
        """Return the model's device; None before `initialize`."""
        return self.device
