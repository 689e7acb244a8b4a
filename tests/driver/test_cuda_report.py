"""What is said of a program that was verified on an emulation: never that it was verified, and no more."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from qcompile import report
from qcompile.program_info import Variant
from qcompile.trial import Emulation
from qcompile.verify_report import KernelReport, Mismatch, OutputReport, VerifyReport

KERNEL = KernelReport("fc", "xnor_popcount", ("a",), True, None, None, True)
WRONG = replace(KERNEL, equal=False, mismatch=Mismatch(0, (0, 1), 3, 4, 1, 8), ok=False)
CUDA = VerifyReport((KERNEL,), (OutputReport("y", 0.0, 0.0, None),), 4, 0, 0, 1e-4, "cuda")
REST = ": 4 samples, 1 of 1 integer kernel equal; y: max error 0"


def test_a_gpu_verifies_as_a_processor_does() -> None:
    assert CUDA.verdict() == f"verified{REST}"


def test_one_emulation() -> None:
    verdict = replace(CUDA, emulated=80).verdict()
    assert verdict == f"verified, emulated on the CPU as sm_80{REST}"


def test_several_emulations() -> None:
    found = replace(CUDA, emulated=80, others=(replace(CUDA, emulated=90),))
    assert found.verdict() == (
        f"verified, emulated on the CPU as sm_80{REST}\nverified, emulated on the CPU as sm_90{REST}"
    )


def test_a_processor_and_an_emulation() -> None:
    found = replace(CUDA, variant="haswell", others=(replace(CUDA, emulated=80),))
    assert found.verdict() == (
        f"verified as haswell{REST}\nverified as cuda, emulated on the CPU as sm_80{REST}"
    )


def test_an_emulation_that_fails() -> None:
    found = replace(CUDA, kernels=(WRONG,), emulated=75)
    assert found.verdict().startswith("NOT VERIFIED, emulated on the CPU as sm_75: ")
    both = replace(CUDA, others=(found,))
    assert not both.ok
    [line] = both.failures()
    assert line.startswith("cuda, emulated on the CPU as sm_75: fc (xnor_popcount)")


def test_the_last_line_says_how() -> None:
    out = io.StringIO()
    how = f"{report.how([], str(Emulation((80, 90, 75), (4,))))}: no GPU here"
    Console(file=out, width=200).print(report.saved("net.qcp", 1234, how))
    assert out.getvalue() == (
        "wrote net.qcp, 1,234 bytes; verified, emulated on the CPU as sm_80, sm_90 and sm_75: "
        "no GPU here\n"
    )


def test_the_last_line_says_what_ran_where() -> None:
    emulated = str(Emulation((80,), (1,)))
    on = "verified on this processor"
    assert report.how(["this processor"], emulated) == (
        f"{on}, and the code for GPUs emulated on the CPU as sm_80"
    )
    assert report.how(["this processor", "this GPU"], "") == (
        f"{on} and this GPU, NOT verified for GPUs"
    )
    assert report.how([], "") == "NOT verified"


def test_what_is_equal_to_the_bit_is_named() -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(report.verdict(CUDA, fake_quant_equal=True))
    assert out.getvalue() == (
        f"verified{REST}\n"
        "before compilation: the fake-quant model and its integers are equal to the bit\n"
    )


@pytest.mark.parametrize(
    ("there", "takes"),
    [
        (("nvdisasm", "cuobjdump"), ""),
        (("nvdisasm",), ' (takes cuobjdump: pip install "qcompile[cuda]")'),
        ((), ' (takes nvdisasm and cuobjdump: pip install "qcompile[cuda]")'),
    ],
)
def test_machine_code_is_read_with_tools_that_are_named_where_they_lack(
    there: tuple[str, ...], takes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "find_tool", lambda name: name if name in there else None)
    held = Variant("cuda", "cuda", ("sm_75", "sm_80", "compute_100"), ())
    told = report.machine_code([held])
    assert told.endswith(f": qcompile inspect PROGRAM --target cuda --arch sm_80{takes}")
    assert report.machine_code([replace(held, features=())]) == ""


def test_one_sample_is_one() -> None:
    one = replace(CUDA, samples=1, unlike=1, borderline=1)
    assert one.failures() == ["lowering: 1 of 1 sample with other bits"]
    assert "NOT VERIFIED: 1 sample, " in one.verdict()
    assert one.verdict().endswith("; 1 has a level that rounding decides, outputs left out")
