"""The machine's metrics: runs the collector once in a while, and keeps how much memory each worker takes.

The collector is a process, as in TorchServe: ``<home>/ts/metrics/metric_collector.py --gpu N`` or what
system_metrics_cmd names. Standard input is one line of the workers' pids. Standard output is one entry of `lines` a
line, one empty line, then ``pid:bytes``. What of it cannot be read is passed over. TorchServe would stop collecting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from archive_tool.errors import InputError
from serving.frontend.metering.lines import Entry, parse
from serving.frontend.settings import Settings

#: Seconds that the collector may take; it waits up to 20 for a driver that wakes its devices.
TIMEOUT_S: Final = 60.0
#: Bytes that it may print.
MAX_OUTPUT: Final = 1 << 20
#: Workers it is asked about: as many pids as a pipe holds at once, however slowly they are read.
MAX_PIDS: Final = 5000
#: Seconds until the end of this server is noticed while the collector runs.
_LOOK_S: Final = 0.1
_MEMORY: Final = re.compile(r"([0-9]{1,10}):([0-9]{1,18})", re.ASCII)

_log = logging.getLogger(__name__)


class SystemMetrics:
    """Collects the machine's metrics, unless ``disable_system_metrics`` is on."""

    def __init__(
        self,
        settings: Settings,
        take: Callable[[Entry], None],
        pids: Callable[[], Iterable[int]],
        *,
        gpus: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Understand the settings.

        Args:
            settings: of the server.
            take: gets each value, in the loop.
            pids: gives the workers' pids, in the loop.
            gpus: how many there are.
            timeout_s: how long the collector may take.

        Raises:
            InputError: ``blacklist_env_vars`` is no regular expression.
        """
        self._on = not settings.on("disable_system_metrics")
        self._take = take
        self._pids = pids
        self._interval = max(1, settings.number("metric_time_interval", 60))
        self._timeout_s = timeout_s
        self._home = settings.place.home
        named = settings.text("system_metrics_cmd")
        arguments = named.split() if named else ["ts/metrics/metric_collector.py", "--gpu", str(gpus)]
        self._command = [settings.python, *arguments]
        self._environment = self._environ(settings.text("blacklist_env_vars"))
        self._memory: dict[int, int] = {}
        self._complaints: set[str] = set()
        self._ending = threading.Event()

    def memory_of(self, pid: int) -> int:
        """Bytes that a worker took when it was last looked at; 0 if it has not been."""
        return self._memory.get(pid, 0)

    async def run(self) -> None:
        """Collect until it is cancelled, at once and then once an interval; the collector has ended then, too."""
        while self._on:
            began = time.monotonic()
            await self._collect()
            await asyncio.sleep(max(0.0, self._interval - (time.monotonic() - began)))

    async def _collect(self) -> None:
        pids = [pid for pid in self._pids() if pid > 0][:MAX_PIDS]
        # Starting a process takes the loop's thread longer than a request does.
        asked = asyncio.ensure_future(asyncio.to_thread(self._ask, pids))
        try:
            entries, self._memory = await asyncio.shield(asked)
        except asyncio.CancelledError:
            self._ending.set()
            await asyncio.wait([asked])
            raise
        except (OSError, ValueError) as error:
            self._complain(f"the machine's metrics are missing: {error}")
            return
        for entry in entries:
            self._take(entry)

    def _ask(self, pids: list[int]) -> tuple[list[Entry], dict[int, int]]:
        """Run the collector and understand what it prints.

        Raises:
            OSError: it cannot be started.
            ValueError: it takes too long or prints too much, or failed.
        """
        lines = iter(self._printed(",".join(map(str, pids)) + "\n").splitlines())
        entries = []
        for line in lines:
            if not line:
                break
            entry = parse(line)
            if entry is None:
                self._complain(f"the collector printed what is no metric: {line[:200]!r}")
            else:
                entries.append(entry)
        return entries, dict(_memory(lines, set(pids)))

    def _printed(self, question: str) -> str:
        process = subprocess.Popen(
            self._command,
            cwd=self._home,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        with process:
            try:
                out, errors = self._read(process, question.encode(), time.monotonic() + self._timeout_s)
            except BaseException:
                # With what it has started, which could hold the pipes. Nobody has waited for it: the pid is still its.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        if errors:
            self._complain(f"the collector says: {errors.strip()[:2000]}")
        if process.returncode != 0:
            raise ValueError(f"{self._shown} ended with {process.returncode}")
        return out

    def _read(self, process: subprocess.Popen[bytes], question: bytes, deadline: float) -> tuple[str, str]:
        found: dict[int, bytearray] = {}
        with selectors.DefaultSelector() as selector:
            for pipe in filter(None, (process.stdout, process.stderr)):
                found[pipe.fileno()] = bytearray()
                selector.register(pipe, selectors.EVENT_READ)
            if process.stdin:
                with contextlib.suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(question)
            while selector.get_map():
                self._go_on(deadline)
                for key, _ in selector.select(_LOOK_S):
                    read = os.read(key.fd, 1 << 16)
                    if not read:
                        selector.unregister(key.fileobj)
                    found[key.fd] += read
                    if len(found[key.fd]) > MAX_OUTPUT:
                        raise ValueError(f"{self._shown} prints more than {MAX_OUTPUT} bytes")
        while process.poll() is None:
            self._go_on(deadline)
            time.sleep(_LOOK_S)
        out, errors = (bytes(part).decode("utf-8", "replace") for part in found.values())
        return out, errors

    def _go_on(self, deadline: float) -> None:
        if self._ending.is_set():
            raise ValueError("the server ends")
        if time.monotonic() > deadline:
            raise ValueError(f"{self._shown} takes more than {self._timeout_s:g} s")

    @property
    def _shown(self) -> str:
        return " ".join(self._command)

    def _complain(self, message: str) -> None:
        """Log a message once: the same thing goes wrong once a minute."""
        if message not in self._complaints and len(self._complaints) < 100:
            self._complaints.add(message)
            _log.warning("%s", message)

    def _environ(self, hidden: str | None) -> dict[str, str]:
        try:
            pattern = re.compile(hidden or "(?!)")
        except re.error as error:
            raise InputError(f"not a regular expression: blacklist_env_vars={hidden}: {error}") from None
        found = {name: value for name, value in os.environ.items() if not pattern.fullmatch(name)}
        paths = [found.get("PYTHONPATH", ""), str(self._home)]
        return found | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _memory(lines: Iterable[str], pids: set[int]) -> Iterator[tuple[int, int]]:
    for line in lines:
        found = _MEMORY.fullmatch(line.strip())
        if found and int(found[1]) in pids:
            yield int(found[1]), int(found[2])
