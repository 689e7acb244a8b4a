"""Launches are checked before anything runs: a file may be damaged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from qcompile.cuda.launches import Argument, Launch, Room, constants_read, fault
from qcompile.cuda.library import Shape, _Parameters
from qcompile.program_info import (
    InfoError,
    KernelInfo,
    ProgramInfo,
    StoredInfo,
    ValueInfo,
    Variant,
    from_json,
    to_json,
)

ROOM = Room(inputs=1, outputs=1, kernels=2, workspace=512, samples=64)
FIRST = Launch("first", 0, (Argument("input", 0), Argument("workspace", 256)), 100, 128)
SECOND = Launch(
    "second",
    1,
    (Argument("workspace", 256), Argument("constants", 64), Argument("output", 0)),
    items=7,
    per_block=4,
    y=2,
    z=3,
    threads=32,
)


def test_a_grid_has_blocks_for_all_items() -> None:
    assert FIRST.grid(1) == (1, 1, 1)
    assert FIRST.grid(3) == (3, 1, 1)
    assert SECOND.grid(1) == (2, 2, 3)
    assert SECOND.grid(4) == (7, 2, 3)


def test_alternatives_run_by_the_size_of_the_batch() -> None:
    small, large = replace(FIRST, most=4), replace(FIRST, least=5)
    assert [n for n in range(1, 9) if small.runs(n)] == [1, 2, 3, 4]
    assert [n for n in range(1, 9) if large.runs(n)] == [5, 6, 7, 8]


def test_good_launches_have_no_fault() -> None:
    assert fault([FIRST, SECOND], ROOM) == ""
    small, large = replace(FIRST, most=4), replace(FIRST, least=5)
    assert fault([small, large, SECOND], ROOM) == ""
    assert fault([large, small, SECOND], ROOM) == ""
    assert fault([replace(FIRST, most=64), SECOND], ROOM) == ""
    assert constants_read([FIRST, SECOND]) == 65
    assert constants_read([FIRST]) == 0


FAULTS: list[tuple[dict[str, object], str]] = [
    ({"symbol": ""}, "launch 0 is of ''"),
    ({"symbol": "a b"}, "launch 0 is of 'a b'"),
    ({"symbol": "f\n"}, r"launch 0 is of 'f\n'"),
    ({"kernel": -1}, "launch 0 is of kernel -1, of 2"),
    ({"kernel": 2}, "launch 0 is of kernel 2, of 2"),
    ({"threads": 0}, "launch 0 has blocks of 0 threads"),
    ({"threads": 1025}, "launch 0 has blocks of 1025 threads"),
    ({"items": 0}, "launch 0 has 0 items, 128 of them in a block"),
    ({"per_block": 0}, "launch 0 has 100 items, 0 of them in a block"),
    ({"macs": -1}, "launch 0 has 100 items"),
    ({"items": 1 << 40}, "launch 0 has a grid of 549,755,813,888 blocks"),
    ({"y": 0}, "launch 0 has a grid of 0 and 1 blocks in y and z"),
    ({"z": 65536}, "launch 0 has a grid of 1 and 65536 blocks in y and z"),
    ({"least": 0}, "launch 0 is for batches from 0 to 0"),
    ({"least": 5, "most": 4}, "launch 0 is for batches from 5 to 4"),
    ({"most": -1}, "launch 0 is for batches from 1 to -1"),
    ({"most": 63}, "nothing is launched for kernel 0 and batches of 64"),
    ({"least": 2}, "nothing is launched for kernel 0 and batches of 1"),
    ({"kernel": 1}, "nothing is launched for kernel 0 and batches of 1"),
    ({"arguments": (Argument("input", 0),) * 257}, "launch 0 has 257 arguments"),
    ({"arguments": (Argument("input", 1),)}, "launch 0 has the argument 'input' 1"),
    ({"arguments": (Argument("input", -1),)}, "launch 0 has the argument 'input' -1"),
    ({"arguments": (Argument("output", 1),)}, "launch 0 has the argument 'output' 1"),
    ({"arguments": (Argument("workspace", 512),)}, "launch 0 has the argument 'workspace' 512"),
    ({"arguments": (Argument("workspace", 64),)}, "launch 0 has the argument 'workspace' 64"),
    ({"arguments": (Argument("constants", -1),)}, "launch 0 has the argument 'constants' -1"),
    ({"arguments": (Argument("host", 0),)}, "launch 0 has the argument 'host' 0"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[why for _, why in FAULTS])
def test_a_fault_is_found(change: dict[str, object], message: str) -> None:
    launch = replace(FIRST, **change)  # type: ignore[arg-type]
    assert fault([launch, SECOND], ROOM).startswith(message)


def test_faults_of_the_whole() -> None:
    assert fault([SECOND, FIRST], ROOM) == "the launches are not in the order of the kernels"
    assert fault([FIRST], ROOM) == "nothing is launched for kernel 1 and batches of 1"
    gap = [replace(FIRST, most=4), replace(FIRST, least=6), SECOND]
    assert fault(gap, ROOM) == "nothing is launched for kernel 0 and batches of 5"
    for change in ({"samples": 0}, {"samples": 1 << 25}):
        assert fault([FIRST, SECOND], replace(ROOM, **change)).endswith("samples at once")
    for workspace in (-256, 1 << 60, 511):
        assert fault([FIRST, SECOND], replace(ROOM, workspace=workspace)).startswith("a workspace")


@settings(max_examples=200)
@given(st.data())
def test_what_is_accepted_leads_to_where_something_is(data: st.DataObject) -> None:
    """Whatever a file says: launches are refused, or all pointers begin within their memory."""
    number, at = st.integers(1, 3), st.integers(-1, 3)
    place = st.sampled_from([0, 256, 512, 768])
    argument = st.one_of(
        st.builds(Argument, st.sampled_from(["input", "output", "constants"]), at),
        st.builds(Argument, st.just("workspace"), place),
    )
    arguments = st.lists(argument, max_size=4).map(tuple)
    launch = st.builds(
        Launch, st.just("f"), st.just(0), arguments, number, number, threads=number, most=at
    )
    launches = data.draw(st.lists(launch, min_size=1, max_size=3))
    room = data.draw(st.builds(Room, number, number, st.just(1), place, st.integers(1, 5)))
    why = fault(launches, room)
    event("refused" if why else "accepted")
    if why:
        return
    sizes = {"input": [64] * room.inputs, "output": [64] * room.outputs}
    starts = {
        kind: [(i + 1) << shift for i in range(len(sizes[kind]))]
        for kind, shift in (("input", 20), ("output", 30))
    }
    shape = Shape(
        tuple(launches), tuple(sizes["input"]), tuple(sizes["output"]), room.workspace, room.samples
    )
    parameters = _Parameters(shape, {"f": 1}, constants=1 << 40)
    n = data.draw(st.integers(1, room.samples))
    parameters.fill(starts, 1 << 50, n, 0)
    allowed = {*starts["input"], *starts["output"]}
    for address in parameters._values:
        within = (1 << 50) <= address < (1 << 50) + room.workspace * n
        constant = (1 << 40) <= address < (1 << 40) + constants_read(launches)
        assert address in allowed or within or constant
    for _, _, call in parameters.calls(n):
        assert 1 <= call[1] <= 2**31 - 1
        assert 1 <= call[4] <= 1024


# --- in a program's info -------------------------------------------------------------------------

KERNELS = (
    KernelInfo("first", ("a",), results=(StoredInfo("a", 40, -1, 256),)),
    KernelInfo("second", ("b",), results=(StoredInfo("b", 12, 0, 0),)),
)
VARIANT = Variant(
    "cuda", "cuda", ("sm_80", "compute_90"), KERNELS, 512, 64, (FIRST, SECOND), "13.0"
)
INFO = ProgramInfo(
    "Net", "cuda", (VARIANT,), (ValueInfo("x", (10,)),), (ValueInfo("output", (3,)),), False, ()
)


def reread(info: ProgramInfo) -> ProgramInfo:
    return from_json(json.loads(json.dumps(to_json(info))))


def test_launches_survive_json() -> None:
    assert reread(INFO) == INFO


def stored(**change: object) -> tuple[KernelInfo, ...]:
    value = replace(KERNELS[0].results[0], **change)  # type: ignore[arg-type]
    return (replace(KERNELS[0], results=(value,)), KERNELS[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "haswell"}, "a variant for GPUs is called 'haswell'"),
        ({"arch": "sm_8"}, "a variant for GPUs is called 'sm_8'"),
        ({"features": ("avx2",)}, "cuda holds code for 'avx2'"),
        ({"toolkit": "new"}, "cuda was compiled by CUDA 'new'"),
        ({"launches": ()}, "cuda: nothing is launched for kernel 0"),
        ({"launches": (replace(FIRST, threads=2048), SECOND)}, "has blocks of 2048 threads"),
        ({"workspace": 0}, "has the argument 'workspace' 256"),
        ({"machine": "x86_64"}, "cuda has launches, but is for x86_64"),
        ({"kernels": stored(offset=512)}, "cuda: a is stored where nothing is"),
        ({"kernels": stored(offset=-256)}, "cuda: a is stored where nothing is"),
        ({"kernels": stored(size=257)}, "cuda: a is stored where nothing is"),
        ({"kernels": stored(size=-1)}, "cuda: a is stored where nothing is"),
        ({"kernels": stored(output=1)}, "cuda: a is stored where nothing is"),
        ({"kernels": stored(output=-2)}, "cuda: a is stored where nothing is"),
        ({"kernels": stored(output=0, offset=0)}, "cuda: a is stored where nothing is"),
    ],
)
def test_a_variant_for_gpus_is_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(InfoError, match=message):
        reread(replace(INFO, variants=(replace(VARIANT, **change),)))  # type: ignore[arg-type]
