"""The cost model: what it counts, what it knows of which processor, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qcompile.codegen.costs import choose, model, ranking
from qcompile.codegen.costs.choose import KERNELS, KernelChooser, offered
from qcompile.codegen.costs.effort import TERMS, Effort, effort_of
from qcompile.codegen.costs.layers import LayerShape, contraction_in, conv, graph_of
from qcompile.codegen.costs.model import CLASSES, Coefficients, class_of, nearest, read, write
from qcompile.codegen.costs.ranking import ordered, pick
from qcompile.codegen.costs.words import compare, methods_in_bytes
from qcompile.codegen.kernels.contraction import methods_of
from qcompile.codegen.machine import Machine, machine_of
from qcompile.codegen.schedules.cpu import NODE_RULES
from qcompile.codegen.schedules.tile import Choice
from qcompile.codegen.tuning.space import choices_of
from qcompile.codegen.writer import Writer
from qcompile.errors import QCompileError
from qcompile.ir.target import VARIANTS, Target

ARCHS = [*VARIANTS["x86_64"], "ampere1", "neoverse-n1", "cortex-a53"]
MEASURED = ("icelake-server", "cascadelake", "skylake-avx512", "alderlake", "haswell")
_MEASURED_METHODS = ("int8", "lookup", "carry-save", "carry-save-bytes", "popcount")
LAYERS = [
    conv(3, 16, 9),
    conv(64, 64, 12),
    conv(40, 24, 7, 5, stride=2),
    LayerShape(100, 30),
    LayerShape(256, 10, weight_bits=1, activation_bits=4),
    conv(64, 32, 8, weight_bits=1, activation_bits=2),
    conv(32, 48, 6, weight_bits=4, activation_bits=4),
]


def machine(arch: str) -> Machine:
    return machine_of(Target("cpu", arch))


def methods(shape: LayerShape, on: Machine, *, words: bool = False) -> tuple[str | None, ...]:
    gm = graph_of(shape, words=words)
    return methods_of(Writer(gm, contraction_in(gm), on, NODE_RULES), on)


# --- counting ------------------------------------------------------------------------------------


def effort(shape: LayerShape, method: str, *, words: bool = False) -> Effort:
    gm = graph_of(shape, words=words)
    on = machine("cascadelake")
    return effort_of(Writer(gm, contraction_in(gm), on, NODE_RULES), on, method)[1]


def test_the_steps_of_a_convolution_are_counted() -> None:
    shape = conv(64, 48, 14)
    bytes_, words = effort(shape, "int8"), effort(shape, "popcount", words=True)
    pixels = 14 * 14
    assert (
        bytes_.products == pixels * 3 * 9 * 64 // 4
    )  # three vectors of 16 channels, quads of bytes
    assert words.products == pixels * 3 * 9 * 2
    assert (bytes_.calls, bytes_.signs, bytes_.results) == (1, pixels * 48, 0)
    # Signs are moved up by 128 for the instruction: all rows are copied, with their padding.
    assert bytes_.copied > 16 * 16 * 64
    assert bytes_.sums == pixels * 3


def test_a_product_over_one_pixel_waits_for_its_additions() -> None:
    one = effort(LayerShape(64, 16), "int8")
    assert (one.products, one.waits, one.loads) == (16, 7 * 16, 16)
    assert effort(conv(64, 64, 14), "int8").waits == 0


def test_weights_beyond_the_caches_are_counted_as_such() -> None:
    near, far = effort(LayerShape(256, 64), "int8"), effort(LayerShape(4096, 1024), "int8")
    assert (near.distant, far.distant) == (0, 4096)
    assert near.fetches == 0 < far.fetches


@pytest.mark.parametrize("arch", MEASURED)
def test_more_work_takes_longer(arch: str) -> None:
    on = machine(arch)
    known = model.coefficients_of(on)
    assert known is not None
    growing = [
        [conv(64, 64, size) for size in (7, 14, 28, 56)],
        [conv(channels, 64, 14) for channels in (32, 64, 128, 256)],
        [conv(64, outputs, 14) for outputs in (32, 64, 128, 256)],
        [LayerShape(k, 256) for k in (64, 256, 1024, 4096)],
    ]
    for shapes in growing:
        for words in (False, True):
            for method in methods(shapes[0], on, words=words):
                times = []
                for shape in shapes:
                    gm = graph_of(shape, words=words)
                    w = Writer(gm, contraction_in(gm), on, NODE_RULES)
                    times.append(known.seconds(*effort_of(w, on, method)))
                found = [time for time in times if time is not None]
                assert len(found) == len(shapes) or method not in _MEASURED_METHODS
                assert found == sorted(found), method
                assert all(found), method


# --- choosing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_what_is_chosen_is_offered(arch: str) -> None:
    on = machine(arch)
    for shape in LAYERS:
        for words in (False, True) if shape.binary else (False,):
            gm = graph_of(shape, words=words)
            group = contraction_in(gm)
            some = methods_of(Writer(gm, group, on, NODE_RULES), on)
            taken = pick(gm, group, on)
            assert taken.method in some
            assert sorted(map(str, ordered(gm, group, on))) == sorted(map(str, some))
            assert ordered(gm, group, on)[0] == taken.method == choices_of(gm, group, on)[0].method
            choice = KernelChooser()(gm, group, on)
            assert choice is None or choice == choices_of(gm, group, on)[0]


def known_as(costs: dict[str, float], margin: float = 0.0) -> Callable[[Machine], Coefficients]:
    """Kernels of made-up costs for a product, by the beginning of their names."""
    kernels = {}
    for name, cost in costs.items():
        kernels[name] = {"products": cost}
    return lambda on: Coefficients("made up", "2026-01-01", margin, kernels)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def give(costs: dict[str, float], margin: float = 0.0) -> None:
        monkeypatch.setattr(ranking, "coefficients_of", known_as(costs, margin))

    return give


@pytest.mark.parametrize(
    ("cost", "margin", "taken", "why"),
    [
        (2.0, 0.0, "popcount", "1.5 times as fast as carry-save"),
        (2.0, 0.6, "carry-save", "popcount is no surer bet"),
        (2.95, 0.0, "carry-save", "popcount is no surer bet"),
        (6.0, 0.0, "carry-save", "popcount would take 2.0 times as long"),
    ],
)
def test_the_default_stays_unless_another_is_clearly_faster(
    made_up: Callable[..., None], cost: float, margin: float, taken: str, why: str
) -> None:
    made_up({"carry-save CarrySave": 3.0, "popcount Xnor": cost}, margin)
    gm = graph_of(conv(64, 64, 8), words=True)
    found = pick(gm, contraction_in(gm), machine("icelake-server"))
    assert (found.method, found.why) == (taken, why)


def test_what_was_not_measured_is_not_taken(made_up: Callable[..., None]) -> None:
    gm = graph_of(conv(64, 64, 8), words=True)
    group, on = contraction_in(gm), machine("icelake-server")
    made_up({"carry-save CarrySave": 100.0, "popcount no such dot": 1.0})
    assert pick(gm, group, on).method == "carry-save"
    made_up({"popcount Xnor": 1.0})
    assert pick(gm, group, on) == ranking.Pick("carry-save")


def test_integers_are_multiplied_as_bytes_unless_another_way_is_clearly_faster(
    made_up: Callable[..., None],
) -> None:
    gm = graph_of(conv(64, 64, 8, weight_bits=1, activation_bits=4))
    group, on = contraction_in(gm), machine("icelake-server")
    made_up({"int8 Quad": 1.0, "lookup Table": 100.0})
    assert pick(gm, group, on).method == "int8"
    made_up({"int8 Quad": 100.0, "lookup Table": 1.0})
    assert pick(gm, group, on).method == "lookup"


def test_what_was_tuned_wins_over_the_model_and_what_is_forced_over_both() -> None:
    gm = graph_of(conv(64, 64, 8), words=True)
    group, on = contraction_in(gm), machine("icelake-server")
    group.anchor.meta["layer"] = "body.conv"
    tuned = choices_of(gm, group, on)[-1]

    def of_tuning(*_: Any) -> Choice:
        return tuned

    assert KernelChooser(tuned=of_tuning)(gm, group, on) is tuned
    other = next(m for m in ("popcount", "lookup", "carry-save") if m != tuned.method)
    name = {"lookup": choose.XNOR_TABLES}.get(other, other)
    forced = KernelChooser({"body.conv": name}, of_tuning)(gm, group, on)
    assert forced is not None
    assert (forced.method, forced.why) == (other, choose.FORCED)
    # Of the method that is forced, the tile that was tuned.
    own = {"lookup": choose.XNOR_TABLES}.get(str(tuned.method), str(tuned.method))
    assert KernelChooser({"body.conv": own}, of_tuning)(gm, group, on) is tuned
    assert KernelChooser({"body.conv": choose.XNOR}, of_tuning)(gm, group, on) is tuned


def test_all_methods_have_names_that_can_be_forced() -> None:
    for arch in ARCHS:
        for shape in LAYERS:
            for words in (False, True) if shape.binary else (False,):
                gm = graph_of(shape, words=words)
                assert set(offered(gm, contraction_in(gm), machine(arch))) <= set(KERNELS)
    gm = graph_of(conv(64, 64, 8), words=True)
    on = machine("cascadelake")
    names = offered(gm, contraction_in(gm), on)
    assert names == ("xnor-popcount", "carry-save-bytes", "xnor-lookup", "popcount")


# --- words or bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", MEASURED)
def test_wide_layers_are_packed_and_layers_of_few_channels_are_not(arch: str) -> None:
    on = [machine(arch)]
    for wide in (conv(64, 64, 56), conv(128, 128, 28), conv(256, 256, 14), conv(512, 512, 7)):
        found = compare(wide, on)
        assert found is not None
        assert found.pays, wide
        assert found.int8 < 0.9
    for narrow in (conv(1, 8, 28), conv(3, 16, 32)):
        found = compare(narrow, on)
        assert found is not None
        assert not found.pays, narrow
        assert found.int8 > 1


def test_a_portable_program_has_one_graph_for_all() -> None:
    machines = [machine(arch) for arch in ("icelake-server", "skylake-avx512")]
    each = [compare(conv(16, 16, 28), [one]) for one in machines]
    both = compare(conv(16, 16, 28), machines)
    assert both is not None
    ratios = [one.int8 for one in each if one is not None]
    assert both.int8 == pytest.approx((ratios[0] * ratios[1]) ** 0.5)


def test_nothing_is_known_of_a_processor_without_coefficients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model, "shipped", dict)
    assert compare(conv(3, 8, 9), [machine("haswell")]) is None
    gm = graph_of(conv(64, 64, 8), words=True)
    assert KernelChooser()(gm, contraction_in(gm), machine("haswell")) is None


def test_a_layer_in_bytes_has_the_methods_of_its_weights() -> None:
    assert "int8" in methods_in_bytes(conv(64, 64, 8), machine("cascadelake"))


# --- classes and the file ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("icelake-server", "avx512-vpopcntdq"),
        ("znver4", "avx512-vpopcntdq"),
        ("cascadelake", "avx512-vnni"),
        ("skylake-avx512", "avx512"),
        ("alderlake", "avx2-vnni"),
        ("haswell", "avx2"),
        ("x86-64-v2", "sse"),
        ("ampere1", "neon-i8mm"),
        ("neoverse-n1", "neon-dotprod"),
        ("cortex-a53", "neon"),
    ],
)
def test_the_class_of_a_processor(arch: str, name: str) -> None:
    assert class_of(machine(arch)) == name


def coefficients() -> Coefficients:
    return Coefficients("some", "2026-01-01", 0.1, {"popcount Xnor": {"products": 0.5}})


def test_a_class_that_was_not_measured_is_given_the_next_weaker_one_else_the_next_stronger() -> (
    None
):
    some = {"avx512-vpopcntdq": coefficients(), "avx2": coefficients()}
    assert nearest(machine("icelake-server"), some) == "avx512-vpopcntdq"
    assert nearest(machine("cascadelake"), some) == "avx2"
    assert nearest(machine("x86-64-v2"), some) == "avx2"
    assert nearest(machine("x86-64-v2"), {"avx512": coefficients(), **some}) == "avx2"
    assert nearest(machine("cortex-a53"), some) is None
    assert nearest(replace(machine("haswell"), family="riscv64"), some) is None


def test_what_is_shipped_knows_the_kernels_of_its_classes() -> None:
    shipped = model.shipped()
    assert {name for name in CLASSES["x86_64"] if name != "sse"} <= set(shipped)
    for arch in MEASURED:
        known = shipped[class_of(machine(arch))]
        for words in (False, True):
            gm = graph_of(conv(64, 64, 8), words=words)
            on = machine(arch)
            for method in methods(conv(64, 64, 8), on, words=words):
                w = Writer(gm, contraction_in(gm), on, NODE_RULES)
                name, _ = effort_of(w, on, method)
                assert name in known.kernels or method not in _MEASURED_METHODS, (arch, name)


def test_the_file_says_what_was_written() -> None:
    some = {"avx2": coefficients()}
    assert read(write(some), "costs") == some


def damaged(*path: str, value: Any) -> str:
    whole = json.loads(write({"avx2": coefficients()}))
    place = whole
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(whole)


_AVX2 = ("classes", "avx2")
_TERMS = (*_AVX2, "kernels", "popcount Xnor")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "Expecting value"),
        ("[]", "the file is no object"),
        ("{}", "the file has the fields "),
        ("[" * 100_000, "recursion"),
        (damaged("format", value=7), "its format is 7, not 1"),
        (damaged("format", value=None), "the file has the fields classes"),
        (damaged("classes", value=3), "classes is no object"),
        (damaged("classes", "avx3", value={}), "there is no class 'avx3'"),
        (damaged(*_AVX2, "margin", value=None), "avx2 has the fields date, kernels, processor"),
        (damaged(*_AVX2, "margin", value=-1), "margin of avx2 is -1"),
        (damaged(*_AVX2, "margin", value=True), "margin of avx2 is no number"),
        (damaged(*_AVX2, "date", value=7), "date of avx2 is no text"),
        (damaged(*_TERMS, "steps", value=1), "popcount Xnor of avx2 has the unknown term 'steps'"),
        (damaged(*_TERMS, "products", value="much"), "products of popcount Xnor of avx2 is no"),
        (
            damaged(*_TERMS, "products", value=float("nan")),
            "products of popcount Xnor of avx2 is nan",
        ),
        (damaged(*_TERMS, "products", value=0), "popcount Xnor of avx2 costs nothing"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(text: str, what: str) -> None:
    with pytest.raises(QCompileError) as error:
        read(text, "/some/costs.json")
    assert what in str(error.value)
    assert error.value.where == "/some/costs.json"
    assert "calibrate_costs" in str(error.value.hint)


def test_the_terms_are_those_of_an_effort() -> None:
    known = Coefficients("", "", 0.0, {"k": dict.fromkeys(TERMS, 1.0)})
    ones = Effort(**dict.fromkeys(TERMS, 1.0))
    assert known.seconds("k", ones) == pytest.approx(len(TERMS) * 1e-9)
    assert known.seconds("other", ones) is None
