"""Models that bring their own program: torch.export, AOTInductor packages, and ONNX through ONNX Runtime."""

from __future__ import annotations

import io
import logging
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch._export
from torch import nn

from handlers.errors import LoadError, UnsafeCheckpointError, UnsupportedFormatError, is_out_of_memory
from handlers.loading import program_members, unpacking

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

_SHOWN = 300  # characters of another library's error


class ExportedModule(nn.Module):
    """A program of torch.export as a module; it runs in the mode in which it was exported."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        self.training = False

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the program."""
        return self.program(*inputs, **named)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Do nothing: torch refuses both modes for a program."""
        return self


class CompiledPackage:
    """Code compiled by AOTInductor, a package or a library: native code for one kind of device."""

    def __init__(self, package: Any, summary: str) -> None:
        self.summary = summary
        self._package = package

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the code."""
        return self._package(*inputs, **named)


class OnnxModel:
    """An ONNX model in a session of ONNX Runtime. It takes tensors and returns one tensor, or a tuple of them.

    Its other methods, such as `run` and `get_inputs`, are those of the session, which TorchServe passes to its
    handlers.
    """

    def __init__(self, session: Any, device: torch.device) -> None:
        provider = session.get_providers()[0].removesuffix("ExecutionProvider")
        self.summary = f"ONNX model on ONNX Runtime's {provider} provider"
        self._session = session
        self._device = device
        self._inputs = [item.name for item in session.get_inputs()]
        self._outputs = [item.name for item in session.get_outputs()]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # a copy in progress has no session yet
            raise AttributeError(name)
        return getattr(self._session, name)

    def __call__(self, *inputs: torch.Tensor, **named: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run the model on inputs in the model's own order, or by name."""
        if len(inputs) > len(self._inputs):
            raise TypeError(f"the ONNX model takes {len(self._inputs)} inputs, and {len(inputs)} were given")
        feed = dict(zip(self._inputs, inputs, strict=False)) | named
        arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in feed.items()}
        found = tuple(torch.from_numpy(array).to(self._device) for array in self._session.run(self._outputs, arrays))
        return found[0] if len(found) == 1 else found


def load_exported(path: Path, device: torch.device | None, *, weights_only: bool = True) -> nn.Module:
    """Load a program of torch.export onto a device; None leaves it where it was exported.

    Raises:
        LoadError: the program cannot be loaded, or would run code.
    """
    if weights_only:
        _refuse_code(path)
    try:
        program = torch.export.load(path)
    except Exception as error:  # torch raises whatever its deserializer runs into
        if is_out_of_memory(error):
            raise
        raise LoadError(
            f"{path} cannot be read: {_first_line(error)}",
            hint="it may be damaged, or exported by a newer torch than the server's, or need custom operators that the "
            "handler must import first",
        ) from error
    places = {tensor.device for tensor in program.state_dict.values() if isinstance(tensor, torch.Tensor)}
    if device is not None and any(place.type != device.type or place.index != device.index for place in places):
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return ExportedModule(program)


def _refuse_code(path: Path) -> None:
    """Refuse a program that would run code.

    torch makes source of its texts, and unpickles members that it does not recognize. The check reads what torch reads:
    torch's own reader finds the members, too, and must find the same ones.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if same := program_members.colliding(names):
                raise _unsafe(path, same[0], "differs from another member by case only")
            _require_one_reading(path, archive)
            found = program_members.look_into(names, archive.open)
            for name, problem in found.problems:
                raise _unsafe(path, name, problem)
            for name in sorted(found.pickles | {name for name in names if name.lower().endswith(".pt")}):
                _require_data(path, name, archive.read(name))
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise LoadError(f"{path} cannot be read: {_first_line(error)}", hint="write the program again") from error


def _require_one_reading(path: Path, archive: zipfile.ZipFile) -> None:
    """Require that torch's reader finds the same members as zipfile; what it cannot open, torch passes to zipfile."""
    try:
        records = torch._C.PyTorchFileReader(str(path)).get_all_records()
    except RuntimeError:
        return
    folder = archive.namelist()[0].partition("/")[0]
    if sorted(f"{folder}/{record}" for record in records) != sorted(archive.namelist()):
        raise _unsafe(path, folder, "is not read by torch as by others")


def _require_data(path: Path, name: str, content: bytes) -> None:
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unsafe(path, name) from error
    except (RuntimeError, EOFError) as error:
        raise LoadError(f"{name} in {path} cannot be read: {_first_line(error)}", hint="export again") from error


def _unsafe(path: Path, name: str, problem: str = "could run code") -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"{path} is not only a program and tensors: its {name} {problem}",
        hint="export a model without custom objects, or, if you trust the file's origin, put "
        "`handler: {weights_only: false}` into model-config.yaml",
    )


def load_compiled(path: Path, device: torch.device | None) -> CompiledPackage:
    """Load an AOTInductor package, which was compiled for one kind of device; `device` must be of that kind.

    `path` is the package's file, or a folder with its content where `unpacking.takes_folders`. From a folder, the
    processes that load it share its pages.

    Raises:
        LoadError: the package cannot be loaded.
    """
    index = device.index if device is not None and device.index is not None else -1
    keep = device is not None and device.type != "cpu"  # a GPU's kernels are read when they first run
    try:
        with unpacking.unpacked(path, keep=keep) as place:
            package = unpacking.load(place, index)
        metadata: dict[str, str] = package.get_metadata()
    except Exception as error:  # torch raises whatever its loader and the system's run into
        if is_out_of_memory(error):
            raise
        raise LoadError(
            f"{path} cannot be loaded: {_first_line(error)}",
            hint="it was compiled by another version of torch, or for another system: publish the model again here",
        ) from error
    made_for = metadata.get("AOTI_DEVICE_KEY", "")
    if device is not None and made_for and made_for != device.type:
        raise LoadError(
            f"{path} was compiled for {made_for}, and this worker's device is {device.type}",
            hint="set deviceType in model-config.yaml, or compile the model for the other device",
        )
    return CompiledPackage(package, f"AOTInductor package for {made_for or 'this device'}")


def load_library(path: Path, device: torch.device | None) -> CompiledPackage:
    """Load a library in AOTInductor's older form, as written by `torch._export.aot_compile`, for one kind of device.

    Raises:
        LoadError: the library cannot be loaded.
    """
    where = device or torch.device("cpu")
    load = getattr(torch._export, "aot_load", None)
    if load is None:
        raise UnsupportedFormatError(
            f"{path} is a compiled library, which torch {torch.__version__} does not load any more",
            hint="compile the model into a package (.pt2): torch._inductor.aoti_compile_and_package",
        )
    if where.type == "cuda":
        torch.cuda.set_device(where)  # the code runs on the current one
    try:
        library = load(str(path.resolve()), str(where))
    except Exception as error:  # torch raises whatever its loader and the system's run into
        if is_out_of_memory(error):
            raise
        raise LoadError(
            f"{path} cannot be loaded: {_first_line(error)}",
            hint="it is no library of AOTInductor, or was compiled by another version of torch, or for another system: "
            "compile the model again here, into a package (.pt2)",
        ) from error
    return CompiledPackage(library, f"AOTInductor library for {where.type}")


def load_onnx(path: Path, device: torch.device | None) -> OnnxModel:
    """Open an ONNX model with ONNX Runtime, on as many threads as torch uses.

    Raises:
        LoadError: the model cannot be opened, or ONNX Runtime is missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UnsupportedFormatError(
            f"{path} is an ONNX model, and the package onnxruntime is not installed",
            hint="pip install onnxruntime (or torchmar[onnx]), or add it to the archive's requirements file",
        ) from error
    device = device or torch.device("cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    elif device.type != "cpu":
        logger.warning("This onnxruntime cannot use %s: the ONNX model runs on the CPU", device)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no common class
        if is_out_of_memory(error):
            raise
        raise LoadError(
            f"{path} cannot be read: {_first_line(error)}",
            hint="it may be damaged, or made for a newer ONNX Runtime; its weights, if apart, go to --extra-files",
        ) from error
    return OnnxModel(session, device)


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).partition("\n")[0]
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."
