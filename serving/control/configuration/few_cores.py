"""Settings of the Java frontend on few cores, unless the user has said otherwise.

There its usual collector (G1), which works in threads of its own, and two network threads a core take
the cores from the workers, which helps some and costs others: docs/adr/0028-java-on-few-cores.md has the figures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from serving import cores

#: Cores that count as few.
FEW = 2
#: An option for Java, which stops if it is given two collectors.
COLLECTOR = "-XX:+UseSerialGC"
#: Settings of config.properties: threads that read requests, and threads that talk to workers.
THREADS = {"number_of_netty_threads": "1", "netty_client_threads": "1"}
#: The environment variable that asks for it, with 1.
VARIABLE = "TORCHMAR_FEW_CORES"

# Where Java takes options from beside its command line.
_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
# Options that choose a collector or tell it how to work, and those that name a file of more options.
_OF_THE_USER = re.compile(
    r"-XX:[+-]?(?:Use\w*GC|(?:G1|Z|Shenandoah)[A-Z]\w*|(?:Parallel|Conc)GCThreads|MaxGCPauseMillis)\b"
    r"|-XX:(?:Flags|VMOptionsFile)=|@"
)


def applies(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this machine, or this container, has few cores, and the user asks for it."""
    return environ.get(VARIABLE, "").strip() == "1" and cores.available() <= FEW


def vm_options(given: Sequence[str], environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the options for Java: the user's ``vmargs``, and the collector if none of the user's options names one."""
    told = [*given, *(word for name in _VARIABLES for word in environ.get(name, "").split())]
    if not applies(environ) or any(map(_OF_THE_USER.match, told)):
        return tuple(given)
    return (COLLECTOR, *given)


def properties(given: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the settings, with the numbers of threads that the user's configuration leaves open."""
    return (THREADS if applies(environ) else {}) | dict(given)
