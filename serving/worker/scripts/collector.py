"""The metrics collector, which the frontend starts once a minute: how busy the machine is, the memory of each worker.

Standard input is one line of worker pids. Standard output is what MetricCollector.java reads: a line for each gauge,
one empty line, then ``pid:bytes`` for each pid. A pid that was not asked for would end the frontend's collecting for
good and without a word, as would text in the place of a number. So an unknown figure is left out, and named
on standard error, which the frontend logs.

Host figures are those of the machine, as in TorchServe, not those of a container.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

MEGABYTE: Final = 1024**2
GIGABYTE: Final = 1024**3
#: Seconds over which the load of the CPUs is measured; the counters of the kernel move every 0.01 s.
CPU_INTERVAL: Final = 0.1
#: Seconds; a driver that has to wake its devices takes some.
NVIDIA_SMI_TIMEOUT: Final = 20
_NVIDIA_SMI: Final = (
    "nvidia-smi",
    "--query-gpu=index,utilization.gpu,memory.used,memory.total",
    "--format=csv,noheader,nounits",
)
# What Integer.valueOf takes, and not more: int() would take "1_0" too.
_PID: Final = re.compile(r"-?[0-9]{1,10}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer one question of the frontend, on standard output."""
    lines = [*gauges(_gpus(arguments)), "", *memory(read_pids(), os.getppid())]
    # Java reads UTF-8, whatever the locale says.
    sys.stdout.buffer.write("\n".join([*lines, ""]).encode("utf-8", "replace"))
    sys.stdout.buffer.flush()
    return 0


def _gpus(arguments: Sequence[str] | None) -> int:
    """Read the number after ``--gpu``. Nothing here ends the program: a frontend without an answer is worse off."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--gpu", nargs="?", default="0")
    text = parser.parse_known_args(arguments)[0].gpu or ""
    return int(text) if _PID.fullmatch(text) else 0


def _complain(what: str, error: object) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    print(f"{what}: {reason}", file=sys.stderr, flush=True)


def gauges(gpus: int) -> list[str]:
    """Return the lines of the host's gauges, and of each GPU's if the frontend counts any."""
    lines: list[str] = []
    for what, collect in (("no host figures", _host), ("no GPU figures", _gpu if gpus > 0 else tuple)):
        try:
            lines += [_line(*figure) for figure in collect()]
        except Exception as error:
            _complain(what, error)
    return lines


def _line(name: str, unit: str, value: float, device: str = "") -> str:
    """Format a gauge in the grammar of Metric.java, which knows no plus sign, hence no exponent."""
    dimensions = f"Level:Host,device_id:{device}" if device else "Level:Host"
    return f"{name}.{unit}:{value:.3f}|#{dimensions}|#hostname:{socket.gethostname()},{int(time.time())}"


def _host() -> Iterator[tuple[str, str, float]]:
    import psutil

    readings: tuple[tuple[str, str, Callable[[], float]], ...] = (
        # Without an interval psutil compares with its last call, and this is a new process: always 0.
        ("CPUUtilization", "Percent", lambda: psutil.cpu_percent(CPU_INTERVAL)),
        ("MemoryUsed", "Megabytes", lambda: psutil.virtual_memory().used / MEGABYTE),
        ("MemoryAvailable", "Megabytes", lambda: psutil.virtual_memory().available / MEGABYTE),
        ("MemoryUtilization", "Percent", lambda: psutil.virtual_memory().percent),
        ("DiskUsage", "Gigabytes", lambda: psutil.disk_usage("/").used / GIGABYTE),
        ("DiskUtilization", "Percent", lambda: psutil.disk_usage("/").percent),
        ("DiskAvailable", "Gigabytes", lambda: psutil.disk_usage("/").free / GIGABYTE),
    )
    for name, unit, read in readings:
        try:
            value = read()
            if not math.isfinite(value):
                raise ValueError(f"the system says {value}")
        except Exception as error:
            _complain(f"no {name}", error)
        else:
            yield name, unit, value


def _gpu() -> Iterator[tuple[str, str, float, str]]:
    import subprocess

    try:
        done = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT, check=False)
    except FileNotFoundError:
        raise OSError("nvidia-smi is not installed") from None
    if done.returncode != 0:
        raise OSError(f"nvidia-smi ended with {done.returncode}: {done.stderr or done.stdout}")
    return _gpu_figures(done.stdout)


def _gpu_figures(text: str) -> Iterator[tuple[str, str, float, str]]:
    """Read nvidia-smi's table; what a device does not tell ("[N/A]") is left out."""
    for row in text.splitlines():
        device, *cells = (cell.strip() for cell in row.split(","))
        if len(cells) != 3 or not device.isdigit():
            continue
        busy, used, total = (_number(cell) for cell in cells)
        if used is not None and total:
            yield "GPUMemoryUtilization", "Percent", 100 * used / total, device
        if used is not None:
            yield "GPUMemoryUsed", "Megabytes", used, device
        if busy is not None:
            yield "GPUUtilization", "Percent", busy, device


def _number(cell: str) -> float | None:
    with contextlib.suppress(ValueError):
        value = float(cell)
        return value if math.isfinite(value) else None
    return None


def read_pids() -> list[int]:
    """Read the pids on the one line of standard input; anything else is ignored."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not there at all
        line = sys.stdin.buffer.readline().decode("ascii", "replace")
        return [int(word) for word in map(str.strip, line.split(",")) if _PID.fullmatch(word)]
    return []


def memory(pids: Iterable[int], frontend: int) -> list[str]:
    """Return the ``pid:bytes`` lines."""
    return [f"{pid}:{size}" for pid, size in sizes(pids, backends(frontend))]


def sizes(pids: Iterable[int], behind: Mapping[int, tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Bytes of memory of workers, with their pids in the order given; 0 of one that is gone.

    Args:
        pids: that the frontend knows them by.
        behind: what `backends` found.
    """
    known = functools.cache(memory_of)
    for pid in pids:
        # A dead process has nothing; the backend that it is still registered for may be another program by now.
        yield pid, sum(known(one) // sharers for one, sharers in parts(pid, behind)) if known(pid) else 0


def parts(pid: int, behind: Mapping[int, tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return the processes that a worker consists of, and how many workers each is divided among.

    The pid that the frontend knows may be that of a thin process, with the model in a backend process behind it, which
    many may share: what a worker takes is what its own process takes, and its part of what the backend does.
    """
    backend, sharers = behind.get(pid, (pid, 1))
    return ((pid, 1),) if backend == pid else ((pid, 1), (backend, max(sharers, 1)))


def backends(frontend: int) -> Mapping[int, tuple[int, int]]:
    """Return, by the pid that the frontend knows, the process behind it and how many workers share that.

    Empty, with a complaint on standard error, if nobody tells.
    """
    try:
        from serving.worker.scripts import registry

        return {thin: (int(backend), int(sharers)) for thin, (backend, sharers) in registry.backends(frontend).items()}
    except Exception as error:
        _complain("the memory of shared processes is missing", error)
        return {}


def memory_of(pid: int) -> int:
    """Return the memory of a process in bytes, 0 if it is gone.

    Pages shared with others count in proportion (PSS), so that the workers' figures add up to what they take
    together; where the system does not tell that, the resident size.
    """
    if pid <= 0:
        return 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    try:
        import psutil

        return int(psutil.Process(pid).memory_info().rss)
    except Exception:
        return 0
