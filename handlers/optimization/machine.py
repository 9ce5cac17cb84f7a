"""What code that was compiled ahead of time needs, and whether a machine has it. Nothing here imports torch.

Compiled code works with one version of torch and one kind of processor. A worker asks before it loads any of the code,
and `torchmar inspect` asks where torch may be missing.
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

CPU_INFO: Final = Path("/proc/cpuinfo")
#: The flags of x86 and ARM by 16-bit dtype; each of them means that matmuls can be computed in it.
INSTRUCTIONS: Final = {
    "bfloat16": frozenset({"amx_bf16", "avx512_bf16", "bf16"}),
    "float16": frozenset({"amx_fp16", "avx512_fp16", "asimdhp"}),
}
# Lines that describe the processor's abilities; the others change, or count.
_TELLING: Final = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part", "CPU implementer")
# The instruction sets that a compiler uses by default for the processor it runs on. Other flags describe privileges,
# power and mitigations, which differ between machines that run the same code.
_USED_UNASKED: Final = re.compile(
    r"(sse|ssse|avx|amx|bmi|fma|f16c|popcnt|abm|movbe|adx|gfni|vaes|vpclmul|pclmul|aes|sha_ni|xop|tbm|lahf_lm|cx16)"
)


@dataclass(frozen=True)
class Machine:
    """A machine as compiled code sees it: one that it is for, or one that it is to run on.

    `torch` is a version, `platform` such as "linux-x86_64", `device` "cpu" or "cuda". `capability` lists the
    instruction sets, or a GPU's compute capability; None where it is not known.
    """

    torch: str
    platform: str
    device: str
    capability: tuple[str, ...] | None

    def misfit(self, here: Machine) -> str | None:
        """Say why code for this machine does not run `here`; None if it does, or if only the capability is unknown."""
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
    """Describe this machine; the arguments are what only torch knows.

    `version` is torch's own, with the build.
    """
    # Builds for the CPU and for GPUs are one version, and have the same code for the CPU.
    told = version.partition("+")[0] if device == "cpu" else version
    system = f"{sys.platform}-{platform.machine()}"
    return Machine(told, system, device, None if capability is None else tuple(capability))


def other_dtype(computes_in: str, asked: str | None) -> str | None:
    """Say why code is not what `optimize.dtype` asks for; None if it is, or if the config file has no such section."""
    if asked is None or asked == computes_in:
        return None
    return f"it computes in {computes_in}, and optimize.dtype in model-config.yaml is {asked}"


def processor(cpu_info: Path = CPU_INFO) -> dict[str, str]:
    """Return the kernel's lines on the abilities of the processor's first core, by the name that each begins with.

    Empty where the kernel does not say.
    """
    found: dict[str, str] = {}
    try:
        with cpu_info.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                name = line.partition(":")[0].strip()
                if name in _TELLING:
                    found.setdefault(name, line.strip())
    except OSError:
        pass
    return found


def instruction_sets(cpu_info: Path = CPU_INFO) -> list[str] | None:
    """List the instruction sets of the processor by the kernel's names; None where it does not say."""
    lines = processor(cpu_info)
    line = lines.get("flags") or lines.get("Features")
    if line is None:
        return None
    names = set(line.partition(":")[2].split())
    return sorted(filter(_USED_UNASKED.match, names) if "flags" in lines else names)


def lacks_instructions(dtype: str, cpu_info: Path = CPU_INFO) -> bool:
    """Return whether this processor is known to compute in a 16-bit dtype by software only."""
    known = instruction_sets(cpu_info)
    return known is not None and dtype in INSTRUCTIONS and INSTRUCTIONS[dtype].isdisjoint(known)
