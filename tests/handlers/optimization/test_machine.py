"""The needs of compiled code, and whether a machine meets them."""

import dataclasses
import subprocess
import sys

import pytest

from handlers.optimization.machine import Machine, instruction_sets, lacks_instructions, other_dtype, this_machine

X86 = """\
processor\t: 0
flags\t\t: fpu vme sse sse2 ssse3 avx2 avx512f amx_bf16 fma hypervisor popcnt md_clear ibrs

processor\t: 1
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16\n"
NEEDED = Machine("2.15.0", "linux-x86_64", "cpu", ("avx2", "fma"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86, ["amx_bf16", "avx2", "avx512f", "fma", "popcnt", "sse", "sse2", "ssse3"]),
        (ARM, ["asimd", "bf16", "fp", "sve"]),
        ("processor\t: 0\n", None),
    ],
)
def test_the_instruction_sets_of_a_processor(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert instruction_sets(tmp_path / "cpuinfo") == expected


def test_a_system_that_tells_no_instruction_sets(tmp_path):
    assert instruction_sets(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("line", "bfloat16", "float16"),
    [
        ("flags\t\t: fpu avx512f", True, True),
        ("flags\t\t: fpu avx512_bf16", False, True),
        ("flags\t\t: fpu amx_bf16 avx512_fp16", False, False),
        ("Features\t: fp asimd asimdhp bf16", False, False),
        ("Features\t: fp asimd", True, True),
        ("model name\t: bare", False, False),
    ],
)
def test_processors_that_compute_sixteen_bits_in_software(tmp_path, line, bfloat16, float16):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\n{line}\n")
    assert lacks_instructions("bfloat16", info) is bfloat16
    assert lacks_instructions("float16", info) is float16
    assert not lacks_instructions("float32", info)
    assert not lacks_instructions("bfloat16", tmp_path / "none")


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        ({}, None),
        ({"capability": ("avx2", "avx512f", "fma")}, None),  # more than it needs
        ({"capability": None}, None),
        ({"device": "cuda"}, "it is for cpu, and the device is cuda"),
        ({"platform": "darwin-arm64"}, "it is for linux-x86_64, and this is darwin-arm64"),
        ({"torch": "2.14.0"}, "it is for torch 2.15.0, and this is 2.14.0"),
        ({"capability": ("fma",)}, "it needs avx2, which this processor lacks"),
        ({"capability": ()}, "it needs avx2, fma, which this processor lacks"),
        # The most telling reason comes first.
        ({"device": "cuda", "platform": "x", "torch": "1"}, "it is for cpu, and the device is cuda"),
        ({"torch": "2.14.0", "capability": None}, "it is for torch 2.15.0, and this is 2.14.0"),
    ],
)
def test_whether_code_runs_here(here, reason):
    assert NEEDED.misfit(dataclasses.replace(NEEDED, **here)) == reason


def test_a_gpu_of_another_kind():
    needed = Machine("2.15.0+cu130", "linux-x86_64", "cuda", ("sm_90",))
    assert needed.misfit(dataclasses.replace(needed, capability=("sm_80",))) == "it needs sm_90, which this GPU lacks"


def test_builds_of_one_version_are_one_for_the_processor_and_two_for_a_gpu():
    assert this_machine("2.15.0+cu130", "cpu", []).torch == "2.15.0"
    assert this_machine("2.15.0+cu130", "cuda", []).torch == "2.15.0+cu130"
    assert this_machine("2.15.0", "cpu", None).capability is None
    assert this_machine("2.15.0", "cpu", ["avx2"]).capability == ("avx2",)
    assert this_machine("2.15.0", "cpu", []).platform.startswith(sys.platform)


def test_numbers_of_another_type_than_asked_for():
    assert other_dtype("bfloat16", None) is None
    assert other_dtype("bfloat16", "bfloat16") is None
    wanted = "it computes in bfloat16, and optimize.dtype in model-config.yaml is float32"
    assert other_dtype("bfloat16", "float32") == wanted


def test_it_is_asked_without_torch():
    code = "import sys, handlers.optimization.machine; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
