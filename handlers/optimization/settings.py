"""The section `optimize:` of model-config.yaml: a faster model without code.

optimize:
  dtype: bfloat16         float32, bfloat16 or float16: what convolutions and matmuls are computed in
  channels_last: true     images, and weights of convolutions, with the channels side by side in memory
  compile: true           torch.compile; or the name of a backend, or {backend, mode, dynamic}
  freezing: true          weights are constants: for the compiler, for TorchScript (torch.jit.freeze), and for an eager
                          model without compiler, where convolutions also do the batch normalization after them
  cuda_graphs: true       the kernels of a batch are started as one; with compile, on CUDA
  tolerance: 0.05         how far the answers may be from those of the plain model; see `output_difference`

and TorchServe's own section for torch.compile:

pt2: inductor                                             a backend
pt2: {compile: {enable: true, backend: inductor, mode: reduce-overhead}}
pt2: {backend: inductor, mode: reduce-overhead}           arguments of torch.compile, TorchServe's older form
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from handlers.errors import LoadError

SECTION: Final = "optimize"
#: The dtypes of the computation, and how far the results may be from those of float32 without a `tolerance`.
DTYPES: Final = {"float32": 1e-3, "float16": 0.01, "bfloat16": 0.05}
MODES: Final = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
INDUCTOR: Final = "inductor"
_LEAST_TOLERANCE: Final = 1e-7
_ROUNDING: Final = 1e-4


class Setting(NamedTuple):
    """A key of the section: a description of its values, and a test for one."""

    expected: str
    fits: Callable[[Any], bool]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_tolerance(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and _LEAST_TOLERANCE <= value <= 1


_FLAG: Final = Setting("true or false", lambda value: isinstance(value, bool))
KEYS: Final = {
    "dtype": Setting(f"one of {', '.join(DTYPES)}", lambda value: isinstance(value, str) and value in DTYPES),
    "channels_last": _FLAG,
    "compile": Setting(
        "true, false, the name of a backend, or a mapping such as {backend: inductor, mode: max-autotune}",
        lambda value: isinstance(value, bool | Mapping) or _is_name(value),
    ),
    "freezing": _FLAG,
    "cuda_graphs": _FLAG,
    "tolerance": Setting(
        "a part of the largest output, from 0.0000001 to 1, such as 0.02",
        lambda value: value is None or _is_tolerance(value),
    ),
}
#: Keys below `compile`; each may be null, which leaves it to torch.
COMPILE_KEYS: Final = {
    "backend": Setting("the name of a backend, such as inductor", lambda value: value is None or _is_name(value)),
    "mode": Setting(f"one of {', '.join(MODES)}", lambda value: value is None or value in MODES),
    "dynamic": Setting(_FLAG.expected, lambda value: value is None or isinstance(value, bool)),
}


class Conflict(NamedTuple):
    """Settings that conflict: the key of one, below the section, what is wrong, and what to do."""

    key: str
    message: str
    hint: str


@dataclass(frozen=True)
class Compile:
    """The arguments of torch.compile; `mode` and `dynamic` None leave them to torch."""

    backend: str = INDUCTOR
    mode: str | None = None
    dynamic: bool | None = None


@dataclass(frozen=True)
class Optimization:
    """The section, as it was read.

    `tolerance` None stands for that of the `dtype`; see `limit`. `unasked` says that there is no section, and this is
    what convolutional networks get by default; see `UNASKED`.
    """

    dtype: str = "float32"
    channels_last: bool = False
    compile: Compile | None = None
    freezing: bool = False
    cuda_graphs: bool = False
    tolerance: float | None = None
    unasked: bool = False

    @property
    def limit(self) -> float:
        """The largest difference from the plain model's answers, relative to the largest number of its answer."""
        return DTYPES[self.dtype] if self.tolerance is None else self.tolerance

    def describe(self) -> str:
        """Describe the section in a few words, for the log."""
        parts = [] if self.dtype == "float32" else [self.dtype]
        parts += ["channels_last"] if self.channels_last else []
        if self.compile is not None:
            given = {"mode": self.compile.mode, "dynamic": self.compile.dynamic}
            options = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
            parts.append(self.compile.backend + (f" ({options})" if options else ""))
        parts += ["freezing"] if self.freezing else []
        parts += ["CUDA graphs"] if self.cuda_graphs else []
        return ", ".join(parts) or "nothing"


#: What a convolutional network gets by default; see `apply.unasked`.
UNASKED: Final = Optimization(channels_last=True, freezing=True, tolerance=_ROUNDING, unasked=True)


def read(config: Mapping[str, Any] | None) -> Optimization | None:
    """Read the section; None if there is none, or it is empty.

    Raises:
        LoadError: something in it is wrong, or a `pt2` section beside it asks for torch.compile, too.
    """
    section = (config or {}).get(SECTION)
    if section is None or section is False or section == {}:
        return None
    if not isinstance(section, Mapping):
        raise _error(SECTION, section, f"write lines such as dtype: bfloat16; the settings are {', '.join(KEYS)}")
    _check(section, KEYS, SECTION)
    compiled = section.get("compile")
    if isinstance(compiled, Mapping):
        _check(compiled, COMPILE_KEYS, f"{SECTION}.compile")
    for conflict in conflicts(section, (config or {}).get("pt2")):
        raise LoadError(f"model-config.yaml: {conflict.message}", hint=conflict.hint)
    tolerance = section.get("tolerance")
    return Optimization(
        dtype=section.get("dtype", "float32"),
        channels_last=section.get("channels_last", False),
        compile=_compile(compiled),
        freezing=section.get("freezing", False),
        cuda_graphs=section.get("cuda_graphs", False),
        tolerance=None if tolerance is None else float(tolerance),
    )


def _check(section: Mapping[str, Any], keys: Mapping[str, Setting], name: str) -> None:
    for key, value in section.items():
        if key not in keys:
            hint = f"the settings are {', '.join(keys)}"
            raise LoadError(f"{name}.{key} in model-config.yaml is no setting", hint=hint)
        if not keys[key].fits(value):
            raise _error(f"{name}.{key}", value, f"write {keys[key].expected}")


def _error(name: str, value: Any, hint: str) -> LoadError:
    return LoadError(f"{name} in model-config.yaml is {value!r:.80}", hint=hint)


def _compile(value: Any) -> Compile | None:
    """Read what is asked for; errors in it have already been reported."""
    if value is None or value is False:
        return None
    if isinstance(value, Mapping):
        backend = value.get("backend")
        return Compile(
            backend if isinstance(backend, str) and backend else INDUCTOR, value.get("mode"), value.get("dynamic")
        )
    return Compile(value if isinstance(value, str) else INDUCTOR)


def conflicts(section: Mapping[str, Any], pt2: Any) -> Iterator[Conflict]:
    """Yield the conflicts within the section, and with the section `pt2`; a wrong value is ignored."""
    compiled = _compile(section.get("compile"))
    if compiled is None:
        if section.get("cuda_graphs") is True:
            message = f"{SECTION}.cuda_graphs needs {SECTION}.compile"
            yield Conflict("cuda_graphs", message, "write compile: true beside it")
        return
    if _asks_to_compile(pt2):
        yield Conflict("compile", f"{SECTION}.compile and pt2 both ask for torch.compile", "remove one of them")
    if compiled.backend == INDUCTOR:
        return
    given = [key for key in ("freezing", "cuda_graphs") if section.get(key) is True]
    for key in given + (["compile.mode"] if compiled.mode is not None else []):
        message = f"{SECTION}.{key} is for the backend {INDUCTOR}, and the backend is {compiled.backend:.80}"
        yield Conflict(key, message, f"remove it, or write compile: {INDUCTOR}")


def _asks_to_compile(pt2: Any) -> bool:
    try:
        return compile_options({"pt2": pt2}) is not None
    except LoadError:  # left to the reader of that section to report
        return False


def compile_options(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Read the arguments for `torch.compile` from model-config.yaml; None if it does not ask for it.

    Raises:
        LoadError: the section `pt2` is wrong.
    """
    section = (config or {}).get("pt2")
    if section is None or section is False:
        return None
    if isinstance(section, dict) and "compile" in section:
        return _standard_form(section["compile"])
    if isinstance(section, dict) and "export" in section:
        return None  # export: {aot_compile: true} says that a library is compiled, which its content says, too
    if isinstance(section, str):
        return {"backend": section}
    if isinstance(section, dict):
        return dict(section)
    raise LoadError(f"pt2 in model-config.yaml is {section!r}", hint="give the name of a backend or a compile section")


def _standard_form(options: Any) -> dict[str, Any] | None:
    if isinstance(options, bool):
        return {} if options else None
    if not isinstance(options, dict):
        raise LoadError(
            f"pt2.compile in model-config.yaml is {options!r}", hint="write compile: {enable: true, backend: inductor}"
        )
    given = dict(options)  # the configuration is the user's: never change it
    return given if given.pop("enable", True) else None


def is_inductors(options: Mapping[str, Any]) -> bool:
    """Return whether these arguments for `torch.compile` select inductor, torch's own compiler."""
    return bool(options.get("backend", "inductor") == "inductor")
