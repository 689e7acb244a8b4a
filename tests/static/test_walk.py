"""How often instructions are executed, found from machine code of every architecture."""

from __future__ import annotations

import pytest
from sass_kernels import ARCHITECTURES, compiled, needs_disassembler

from qcompile.static.sass import Function, Instruction, Loop, functions, pointers_read
from qcompile.static.walk import STEPS, Place, Walk, Walker

pytestmark = needs_disassembler
each_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)


def walk(name: str, arch: int, *, pointers: int, thread: int = 64, samples: int = 64) -> Walk:
    place = Place((30, 0, 0), thread, 128, (98, 1, 1), pointers * 8, samples)
    return Walker(compiled(arch)[0][name], arch).walk(place)


def executed(name: str, arch: int, done: Walk) -> dict[str, int]:
    """Executions by the opcode's name."""
    counts: dict[str, int] = {}
    code = compiled(arch)[0][name].instructions
    for number, count in done.counts.items():
        counts[code[number].name] = counts.get(code[number].name, 0) + count
    return counts


@each_architecture
def test_a_loop_of_constant_length(arch: int) -> None:
    done = walk("words", arch, pointers=3)
    assert executed("words", arch, done)["POPC"] == 144
    assert done.guessed == frozenset()
    assert done.ended


@each_architecture
def test_a_thread_that_has_nothing_to_do(arch: int) -> None:
    assert "POPC" not in executed("words", arch, walk("words", arch, pointers=3, samples=19))
    assert executed("words", arch, walk("words", arch, pointers=3, samples=20))["POPC"] == 144


@each_architecture
def test_nested_loops_that_leave_out_what_lies_outside(arch: int) -> None:
    inner = executed("taps", arch, walk("taps", arch, pointers=3))  # pixel 3904: row 12, column 12
    assert inner["POPC"] == 9 * 25
    corner = executed("taps", arch, walk("taps", arch, pointers=3, thread=3920 - 3840))
    assert corner["POPC"] == 4 * 25


@each_architecture
def test_a_counter_that_is_halved(arch: int) -> None:
    done = walk("halves", arch, pointers=2, thread=0)
    assert executed("halves", arch, done)["BAR"] == 9
    assert done.guessed == frozenset()


@each_architecture
def test_a_counter_that_starts_at_the_thread(arch: int) -> None:
    for thread, trips in ((0, 8), (103, 8), (104, 7), (127, 7)):
        done = walk("strided", arch, pointers=2, thread=thread)
        assert executed("strided", arch, done)["FADD"] == trips


@each_architecture
def test_a_loop_over_the_samples(arch: int) -> None:
    for samples in (1, 7, 64, 1000):
        done = walk("samples", arch, pointers=2, samples=samples)
        assert executed("samples", arch, done)["FADD"] == samples


@each_architecture
def test_a_length_that_is_loaded_is_not_known(arch: int) -> None:
    done = walk("loaded", arch, pointers=2)
    assert executed("loaded", arch, done)["FADD"] == 1
    assert len(done.guessed) == 1


@each_architecture
def test_loops_are_found_with_what_is_in_them(arch: int) -> None:
    function = compiled(arch)[0]["taps"]
    assert len(function.innermost) < len(function.loops)
    inner = function.innermost[0]
    assert all(inner in outer for outer in function.loops if outer.first < inner.first)
    assert sum(one.name == "POPC" for one in function.body(inner)) == 1


LISTING = """
.text.endless:
        /*0000*/                   MOV R0, 0x5 ;
.L_x_0:
        /*0010*/                   IADD3 R0, R0, 0x1, RZ ;
        /*0020*/                   BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   BRA `(.L_x_1);
        /*0040*/                   NOP;
$subroutine:
        /*0050*/                   RET.REL.NODEC R2 `(endless) ;
.text.other:
        /*0000*/              @!PT LDS RZ, [RZ] ;
        /*0010*/                   EXIT ;
"""


def test_a_listing() -> None:
    read = functions(LISTING)
    assert list(read) == ["endless", "other"]
    assert read["endless"].instructions == (
        Instruction("MOV", ("R0", "0x5")),
        Instruction("IADD3", ("R0", "R0", "0x1", "RZ")),
        Instruction("BRA", ("`(.L_x_0)",), "", 1),
        Instruction("BRA", ("`(.L_x_1)",)),
    )
    assert read["endless"].loops == (Loop(1, 2),)
    assert [one.never for one in read["other"].instructions] == [True, False]
    assert functions("") == {}


def test_a_walk_that_does_not_end() -> None:
    done = Walker(functions(LISTING)["endless"], 80).walk(Place())
    assert not done.ended
    assert done.counts[1] == pytest.approx(STEPS / 2, rel=0.01)


def test_a_kernel_without_instructions() -> None:
    assert Walker(Function("none", ()), 80).walk(Place()).counts == {}


@each_architecture
def test_pointers_that_a_kernel_uses(arch: int) -> None:
    functions_of = compiled(arch)[0]
    assert pointers_read(functions_of["words"], arch, 3) == {0, 1, 2}
    assert pointers_read(functions_of["unused"], arch, 4) == {0, 3}
