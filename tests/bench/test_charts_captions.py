"""What the captions of the charts say: computed, and honest about losses."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from sample_reports import only_layers, report, timed

from qcompile.bench import words
from qcompile.bench.html.charts import CHARTS, charts
from qcompile.bench.results import (
    OURS,
    Layer,
    Noise,
    Parts,
    Range,
    Report,
    Roof,
    Spread,
    Time,
    Width,
)


def caption(name: str, found: Report) -> str:
    module = next(module for module in CHARTS if name == module.NAME)
    plan = module.plan(found)
    return str(plan if isinstance(plan, str) else plan.caption)


def test_the_speed_caption_tells_wins_losses_and_noise() -> None:
    won = caption("speed", timed(10e-6, 50e-6, 25e-6))
    assert won.startswith("qcompile takes 10.0 µs a call at batch 1, 1 thread. ")
    assert "Engine 1, takes 2.50 times as long" in won
    assert "slower" not in won
    lost = caption("speed", timed(10e-6, 50e-6, 5e-6))
    assert "The fastest, Engine 1, takes 50 % of that." in lost
    assert "qcompile is slower than Engine 1 (0.50× at batch 1, 1 thread)." in lost
    assert "slower" not in caption("speed", timed(10e-6, 9.9e-6))


def test_an_uncertain_loss_is_no_loss_as_in_the_tables() -> None:
    """Its interval holds 1, however far the median is from it."""
    found = timed(10e-6, 8e-6)
    [run] = found.runs
    wide = replace(run.times[-1], speedup=Spread(0.8, 0.6, 1.1))
    times = (*run.times[:-1], wide)
    said = caption("speed", replace(found, runs=(replace(run, times=times),)))
    assert "slower" not in said
    assert "slower" in caption("speed", found)


def test_the_layer_caption_names_the_slowest_and_what_got_slower() -> None:
    found = only_layers(
        Layer("conv1", before=Parts(matmul=9e-6), after=Parts(matmul=6e-6)),
        Layer("conv2", before=Parts(matmul=3e-6), after=Parts(pack=1e-6, matmul=3e-6)),
    )
    said = caption("layer-time", found)
    assert said.startswith("After, conv1 takes 60 % of the time, and of all of it 90 % is matmul.")
    assert "Slower than in PyTorch: conv2." in said
    only = caption("layer-time", only_layers(Layer("a", after=Parts(other=1e-6))))
    assert "Only the times after are known." in only


def test_the_roofline_caption_tells_how_far_the_slowest_layer_is() -> None:
    layer = Layer("fc", method="int8 x", macs=10**6, moved=10**4, after=Parts(matmul=1e-5))
    roofs = (Roof("int8 products", "macs", 2e11, ("int8",)), Roof("L1", "bytes", 1e11))
    found = replace(only_layers(layer), roofs=roofs)
    # 1e11 of 2e11 a second; 100 products a byte at 1e11 bytes a second are no bound.
    assert "fc, reaches 50 % of its roof, int8 products" in caption("roofline", found)
    narrow = replace(found, layers=(replace(layer, moved=5 * 10**5),))
    # 2 products a byte at 1e11 bytes a second allow 2e11: the same; fewer bytes a second, less.
    slow = replace(narrow, roofs=(roofs[0], Roof("L1", "bytes", 6.25e10)))
    assert "reaches 80 % of its roof, L1 bandwidth" in caption("roofline", slow)
    low = replace(found, roofs=(Roof("int8 products", "macs", 5e10, ("int8",)),))
    assert "fc, reaches 200 % of its roof" in caption("roofline", low)
    assert "More than 100 % means" in caption("roofline", low)
    bare = replace(found, roofs=(), absent={"roofs": "nothing was measured"})
    said = caption("roofline", bare)
    assert "makes 100 GMAC/s" in said
    assert "Nothing was measured." in said


def test_without_accuracy_the_noise_is_shown_and_said() -> None:
    quiet = tuple(replace(width, accuracy=None) for width in report().widths)
    said = caption("widths", replace(report(), widths=quiet))
    assert said.startswith("There is no accuracy: the scale is signal over noise at the output.")
    assert "8 bits, reaches 40.0 dB" in said
    assert "reaches 99.40 %" in caption("widths", report())


def test_a_width_that_failed_or_is_not_known_is_told() -> None:
    failed = Width("3 bits", OURS, (3, 3), reason="out of <memory>")
    unknown = Width("OpenVINO", "openvino", (8, 8), 1e-4, 10**5)
    said = caption("widths", replace(report(), widths=(*report().widths, failed, unknown)))
    assert "Of unknown accuracy: OpenVINO." in said
    assert "Not there: 3 bits (out of <memory>)." in said


def test_the_weights_caption_adds_up() -> None:
    found = only_layers(
        Layer("a", bits=(8, 8), weights_before=4096, weights_after=1024),
        Layer("b", bits=(1, 1), weights_before=32 * 1024, weights_after=1024 * 3),
    )
    said = caption("weights", found)
    assert "take 36.0 KiB as float and 4.0 KiB packed; 75 % of these are in b (1/1 bits)" in said
    grown = only_layers(Layer("a", weights_before=10, weights_after=20))
    assert "Larger than before: a." in caption("weights", grown)


def test_the_ranges_caption_tells_what_is_cut() -> None:
    inside = Layer("a", activations=Range(-2, 2, (-1, 1), (-1, 1)))
    outside = Layer("b", activations=Range(-2, 2, (-1, 1), (-0.5, 1)))
    assert caption("ranges", only_layers(inside)).startswith("Every quantizer represents")
    said = caption("ranges", only_layers(inside, outside))
    assert "In 1 of 2 quantized layers" in said
    assert "b: 25 % of that range is beyond it" in said


def test_the_noise_caption_has_decibels_and_their_share() -> None:
    found = only_layers(Layer("a", bits=(1, 1), sqnr_db=7.0), Layer("b", bits=(8, 8)))
    said = caption("sqnr", found)
    assert "a with 7.0 dB: its noise is 20 % of the signal's power" in said
    assert "Not known of b." in said


def test_the_processes_caption_names_the_widest() -> None:
    run = report().runs[0]
    times = (Time(OURS, ((1.0,), (1.2,)), Spread(1.1, 1, 1.2), Spread(1, 1, 1)),)
    said = caption("processes", replace(report(), runs=(replace(run, times=times),)))
    assert "differ most for qcompile at batch 1, 1 thread: by 18 %" in said


def test_accuracy_that_is_no_share_stays_as_it_is() -> None:
    """A model file may give percents, or something else."""
    found = replace(report(), widths=(Width("8 bits", OURS, (8, 8), 1e-5, 1000, accuracy=97.25),))
    assert "reaches 97.25 in 10.0 µs" in caption("widths", found)
    share = replace(found, widths=(replace(found.widths[0], accuracy=0.9725),))
    assert "reaches 97.25 % in 10.0 µs" in caption("widths", share)


def test_one_sample_is_no_comparison_in_pictures_either() -> None:
    found = timed(10e-6, 50e-6)
    once = replace(found, runs=(replace(found.runs[0], noise=None),))
    said = caption("speed", once)
    assert said == f"qcompile takes 10.0 µs a call at batch 1, 1 thread. {words.SINGLE}"
    assert "×" not in drawn("speed", once)
    assert "50.0 µs, 5.00×" in drawn("speed", found)


def test_panels_of_times_share_their_unit() -> None:
    near = report()
    runs = [
        replace(run, times=tuple(slowed(time, factor) for time in run.times))
        for run, factor in zip(near.runs[:2], (1.0, 30.0), strict=True)
    ]
    assert drawn("speed", replace(near, runs=tuple(runs))).count("time of a call, ms") == 2
    far = replace(runs[1], times=tuple(slowed(time, 1e4) for time in runs[1].times))
    texts = drawn("speed", replace(near, runs=(runs[0], far)))
    assert "time of a call, µs" in texts
    assert "time of a call, s" in texts


def slowed(time: Time, factor: float) -> Time:
    found = time.seconds
    if found is None:
        return time
    return replace(
        time, seconds=Spread(*(factor * v for v in (found.median, found.low, found.high)))
    )


def test_the_scale_of_processes_follows_the_dots_not_the_noise() -> None:
    found = report()
    loud = replace(found.runs[0], noise=Noise(Spread(1.0, 1e-9, 1e9), 1e9))
    texts = drawn("processes", replace(found, runs=(loud,)))
    assert "1,000" not in texts
    assert "noise" not in texts
    half = replace(found.runs[0], noise=Noise(Spread(1.0, 0.5, 1.5), 0.5))
    assert "−50" not in drawn("processes", replace(found, runs=(half,)))
    assert "; too noisy to tell" in drawn("speed", replace(found, runs=(loud,)))


def drawn(name: str, found: Report) -> str:
    """All texts of a picture of runs."""
    bare = replace(found, layers=(), roofs=(), widths=())
    [chart] = [chart for chart in charts(bare) if chart.name == name]
    return "\n".join(ElementTree.fromstring(chart.wide).itertext())
