"""The reference loops: right results, the best of each instruction set, reasons where there is none."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path

import pytest

import bench_limit
import machine_facts
from qcompile.bench import limits
from qcompile.bench.limits import InstructionSet, Limit, Loop

KS = [576, 1152, 2304, 4608]


def loop(isa: str, method: str, k: int) -> Loop:
    return Loop(isa, method, k, 1000, ctypes.CDLL(None), 0)


@pytest.mark.parametrize("isa", limits.SETS, ids=lambda isa: isa.name)
def test_every_loop_is_right_or_its_absence_explained(isa: InstructionSet) -> None:
    try:
        found = limits.loops(isa)
    except limits.Unlimited as error:
        reason = str(error)
        if not reason.startswith(("this processor lacks", "there is no C compiler")):
            raise
        pytest.skip(reason)
    assert {x.isa for x in found} == {isa.name}
    by_method: dict[str, list[int]] = {}
    for x in found:
        by_method.setdefault(x.method, []).append(x.k)
        assert x.kind in (limits.BINARY, limits.INT8, limits.FLOAT)
        assert x.macs % x.k == 0
        x.run(1)
    assert by_method
    assert all(ks == KS for ks in by_method.values())


def needs_compiler() -> None:
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")


def test_a_wrong_loop_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_compiler()
    for file in limits.SOURCES.iterdir():
        shutil.copy(file, tmp_path)
    source = '#define VECTOR 16\n#include "limit.h"\n%s' + (
        "INLINE void dot(int k, int rows, const int *w, const int *a, int *out) {\n"
        "    for (int r = 0; r < rows; r++) {\n"
        "        int differ = 0;\n"
        "        for (int i = 0; i < k / 32; i++)\n"
        "            differ += __builtin_popcount(w[i] ^ a[r * (k / 32) + i]);\n"
        "        out[r] = k - FACTOR * differ;\n"
        "    }\n}\nTILES(dot1, dot, 2)\n"
        'static const struct kernel kernels[] = {ENTRIES(dot1, "1 bit: plain", WORDS, 2, 1)};\n'
        '#include "run.h"\n'
    )
    monkeypatch.setattr(limits, "SOURCES", tmp_path)
    for name, factor in (("good", 2), ("bad", 3)):
        (tmp_path / f"{name}.c").write_text(source % f"#define FACTOR {factor}\n", encoding="utf-8")
    good = limits.measured(limits.loops(InstructionSet("good", (), ())), seconds=0)
    assert [x.loop.k for x in good] == KS
    assert all(0 < x.rate <= x.best for x in good)
    with pytest.raises(limits.Unlimited, match=r"wrong result: 1 bit: plain, K = 576"):
        limits.loops(InstructionSet("bad", (), ()))


def test_what_cannot_be_had_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(limits.Unlimited, match="this processor lacks abacus, quipu"):
        limits.loops(InstructionSet("avx2", ("abacus", "quipu"), ()))
    needs_compiler()
    with pytest.raises(limits.Unlimited, match=r"refuses it: .*error"):
        limits.loops(InstructionSet("avx2", (), ("-mno-such-thing",)))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(limits.Unlimited, match="there is no C compiler"):
        limits.loops(InstructionSet("avx2", (), ("-O0",)))


def test_the_limit_is_the_best_loop_of_the_set_and_those_it_contains() -> None:
    found = [
        Limit(loop("avx2", "1 bit: a", 576), 300, 310),
        Limit(loop("avx2", "1 bit: b", 576), 350, 351),
        Limit(loop("avx512", "1 bit: c", 576), 320, 600),
        Limit(loop("avx512", "1 bit: c", 1152), 500, 510),
        Limit(loop("avx512_vpopcntdq", "1 bit: d", 576), 900, 910),
        Limit(loop("avx2", "int8: e", 576), 999, 999),
    ]
    table = limits.limits(found)
    assert table["avx2"] == {576: 350}
    assert table["avx512"] == {576: 350, 1152: 500}
    assert table["avx512_vpopcntdq"] == {576: 900, 1152: 500}
    assert limits.limits(found, limits.INT8)["avx512"] == {576: 999}
    best = limits.best_loop(found, "avx512", 576)
    assert best is not None
    assert best.method == "1 bit: b"
    assert limits.best_loop(found, "avx2", 1152) is None


def test_the_tables_and_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_compiler()
    monkeypatch.setattr(machine_facts, "pin", lambda threads: None)
    nowhere = InstructionSet("nowhere", ("abacus",), ())
    monkeypatch.setattr(limits, "SETS", (limits.AVX2, nowhere))
    bench_limit.main(["--seconds", "0", "--json", str(tmp_path / "out.json")])
    whole = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert whole["absent"]["nowhere"] == "this processor lacks abacus"
    if "avx2" not in whole["absent"]:
        assert list(whole["best"]["1 bit"]["avx2"]) == [str(k) for k in KS]
        assert {"isa", "method", "k", "gmacs", "best_gmacs"} == whole["loops"][0].keys()
    printed = capsys.readouterr().out
    assert "absent: this processor lacks abacus" in printed
    assert "the limit: best loop of each instruction set" in printed
