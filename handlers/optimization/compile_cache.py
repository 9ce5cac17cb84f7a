"""A cache of what torch's compiler has made: for the next start in a folder of the user's own, and in an archive.

Compiled code is right for one version of torch, one processor and one number of threads. And whoever can write to the
folder can run code in this process. So a folder belongs to one machine and to one user alone; torch's own default is a
well-known name in the folder for temporary files.

An archive may carry its cache as a file, which the manifest records under `torchmar`:

    "compileCache": {"file": "compile-cache.bin", "madeFor": {"torch": "2.13.0", "processor": "...", ...}}

It is used where all of `madeFor` is the same, and ignored elsewhere.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from handlers.optimization.machine import CPU_INFO, processor

logger = logging.getLogger(__name__)

#: The folder in which inductor keeps its output; a user who sets it has decided.
VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"
#: In the manifest, under `torchmar`.
KEY: Final = "compileCache"


def machine(device: torch.device | None = None) -> dict[str, str]:
    """Describe what compiled code is made for; machines with equal descriptions can share it."""
    found = {
        "torch": str(torch.__version__),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "system": f"{sys.platform}-{platform.machine()}",
        "processor": hashlib.sha256(_processor().encode()).hexdigest()[:16],
        "threads": str(torch.get_num_threads()),
    }
    if device is not None and device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = f"{properties.name} {properties.major}.{properties.minor}"
    return found


def _processor(cpu_info: Path = CPU_INFO) -> str:
    lines = processor(cpu_info).values() or (platform.processor(),)
    return "\n".join([torch.backends.cpu.get_cpu_capability(), *lines])


def use_own_folder(device: torch.device | None = None) -> Path:
    """Make torch keep compiled code in a folder of this user's, for this machine; return the folder.

    If `TORCHINDUCTOR_CACHE_DIR` names a folder, that one is used, unless torch itself has set it: importing its
    compiler sets it to torch's default. To be called before the first compilation.
    """
    if device is None or device.type == "cpu":
        os.environ.setdefault("TORCH_WARM_POOL", "0")  # a process that compiles for GPUs, and stays
    given = os.environ.get(VARIABLE)
    if given and given != _torchs_own():
        return Path(given)
    name = hashlib.sha256(repr(sorted(machine(device).items())).encode()).hexdigest()[:16]
    folder = _private_folder() / f"torch-{torch.__version__}-{name}"
    os.environ[VARIABLE] = str(folder)
    logger.debug("What is compiled is kept in %s", folder)
    return folder


def _torchs_own() -> str | None:
    """Return the folder that torch's compiler chooses; None if the compiler is not imported."""
    module = sys.modules.get("torch._inductor.runtime.cache_dir_utils")
    default = getattr(module, "default_cache_dir", None)
    return os.path.abspath(default()) if default is not None else None  # noqa: PTH100 - as torch does it


def _private_folder() -> Path:
    """Find or make a folder that no other user can read or write."""
    temporary = Path(tempfile.gettempdir())
    places = [temporary / f"torchmar-{os.getuid()}" / "compiled"] if hasattr(os, "getuid") else []
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - it raises without a home
    if Path(base).is_absolute():
        places.insert(0, Path(base) / "torchmar" / "compiled")
    for place in places:
        try:
            place.parent.parent.mkdir(parents=True, exist_ok=True)
            for folder in (place.parent, place):
                folder.mkdir(mode=0o700, exist_ok=True)
                if not _is_ours(folder):
                    raise PermissionError(f"{folder} belongs to somebody else, or others may write to it")
            if os.access(place, os.W_OK | os.X_OK):
                return place
        except OSError as error:
            logger.debug("What is compiled cannot be kept in %s: %s", place, error)
    return Path(tempfile.mkdtemp(prefix="torchmar-compiled-"))


def _is_ours(folder: Path) -> bool:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return False
    return not hasattr(os, "getuid") or (found.st_uid == os.geteuid() and not found.st_mode & 0o022)


def save(file: Path, device: torch.device | None = None) -> dict[str, Any] | None:
    """Write what this process has compiled to a file; return its record for the manifest, None if there is nothing.

    The record holds only the file's name.
    """
    make = getattr(torch.compiler, "save_cache_artifacts", None)  # from torch 2.7 on
    made = make() if make is not None else None
    if made is None:
        return None
    file.write_bytes(made[0])
    return {"file": file.name, "madeFor": machine(device)}


def load(manifest: Mapping[str, Any] | None, folder: Path, device: torch.device | None = None) -> bool:
    """Pass the compiler the cache of the archive in `folder`; return whether there is one that fits this machine.

    Never raises: without it, the compiler only has more to do. Like an AOTInductor package it is code.
    """
    record = (manifest or {}).get("torchmar")
    entry = record.get(KEY) if isinstance(record, Mapping) else None
    if not isinstance(entry, Mapping):
        return False
    made_for, here = entry.get("madeFor"), machine(device)
    if made_for != here:
        other = [name for name in here if not isinstance(made_for, Mapping) or made_for.get(name) != here[name]]
        logger.info("The archive's compiled code was made for another %s: compiling anew", ", ".join(other) or "device")
        return False
    use_own_folder(device)
    try:
        path = (folder / str(entry.get("file"))).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError("it is not in the archive")
        found = torch.compiler.load_cache_artifacts(path.read_bytes())
    except Exception as error:  # torch raises whatever its deserializer runs into
        logger.warning("The archive's compiled code (%s) cannot be used: %s", entry.get("file"), error)
        return False
    return found is not None
