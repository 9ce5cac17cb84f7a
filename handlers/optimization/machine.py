"""What code that was compiled ahead of time needs, and whether a machine has it. Nothing here imports torch.

Compiled code belongs to one version of torch and one kind of processor. A worker asks before it loads any of it, and
`torchmar inspect` where torch need not be there at all.
"""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_CPU_INFO: Final = Path("/proc/cpuinfo")
# What a compiler uses unasked when it compiles for the processor it runs on. Other flags tell of privileges, power and
# mitigations, which differ between machines that run the same code.
_INSTRUCTIONS: Final = re.compile(
    r"(sse|ssse|avx|amx|bmi|fma|f16c|popcnt|abm|movbe|adx|gfni|vaes|vpclmul|pclmul|aes|sha_ni|xop|tbm|lahf_lm|cx16)"
)


@dataclass(frozen=True)
class Machine:
    """A machine as compiled code sees it: one that it is for, or one that it is to run on.

    `torch` is a version, `platform` such as "linux-x86_64", `device` "cpu" or "cuda". `capability` are the instruction
    sets, or a GPU's compute capability; None where they cannot be told.
    """

    torch: str
    platform: str
    device: str
    capability: tuple[str, ...] | None

    def misfit(self, here: Machine) -> str | None:
        """Say why code for this machine does not run `here`; None if it does, or only the capability cannot be told."""
        if self.device != here.device:
            return f"it is for {self.device}, and the device is {here.device}"
        if self.platform != here.platform:
            return f"it is for {self.platform}, and this is {here.platform}"
        if self.torch != here.torch:
            return f"it is for torch {self.torch}, and this is {here.torch}"
        if here.capability is None:
            return None
        if missing := [one for one in self.capability or () if one not in here.capability]:
            return f"it needs {', '.join(missing)}, which this {'processor' if here.device == 'cpu' else 'GPU'} lacks"
        return None


def this_machine(version: str, device: str, capability: Iterable[str] | None) -> Machine:
    """Describe this machine, of which only torch knows some.

    `version` is torch's own, with the build.
    """
    # Builds for the CPU and for GPUs are one version, and have the same code for the CPU.
    told = version.partition("+")[0] if device == "cpu" else version
    system = f"{sys.platform}-{platform.machine()}"
    return Machine(told, system, device, None if capability is None else tuple(capability))


def other_dtype(computes_in: str, asked: str | None) -> str | None:
    """Say why code is not what `optimize.dtype` asks for; None if it is, or the config file has no such section."""
    if asked is None or asked == computes_in:
        return None
    return f"it computes in {computes_in}, and optimize.dtype in model-config.yaml is {asked}"


def instruction_sets(cpu_info: Path = _CPU_INFO) -> list[str] | None:
    """List the instruction sets of the processor by the kernel's names; None where it does not tell them."""
    try:
        text = cpu_info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^(flags|Features)\s*:(.*)$", text, re.MULTILINE)
    if found is None:
        return None
    names = set(found[2].split())
    return sorted(names if found[1] == "Features" else filter(_INSTRUCTIONS.match, names))
