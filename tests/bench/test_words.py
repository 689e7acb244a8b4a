"""Numbers and results in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sample_reports

from qcompile.bench import findings, words
from qcompile.bench.results import OURS, Accuracy, Noise, Report, Spread


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.00 ns"),
        (3.4e-8, "34.0 ns"),
        (1.2071e-5, "12.1 µs"),
        (9.999e-4, "1.00 ms"),
        (0.25, "250 ms"),
        (93.0, "93.0 s"),
        (4321.0, "4,321 s"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert words.seconds(value) == text


def test_numbers() -> None:
    assert [words.digits(v) for v in (0.0, 0.0123, 0.866, 9.996, 54.32, -99.96, 1234.5)] == [
        "0.00",
        "0.012",
        "0.87",
        "10.0",
        "54.3",
        "−100",
        "1,234",
    ]
    assert [words.times(v) for v in (1.04, 5.43, 9.96, 20.3)] == ["1.04", "5.4", "10", "20"]
    assert [words.count(v) for v in (None, 0, 12, 583_000, 4e6, 999.7e6, 1.8e9)] == [
        "–",
        "0",
        "12",
        "583 thousand",
        "4.00 million",
        "1.00 billion",
        "1.80 billion",
    ]
    assert words.percent(0.9944) == "99.44 %"
    assert words.decibels(-9.06) == "−9.1 dB"
    assert words.accuracy(3.14159) == "3.142"
    assert words.plural(1, "process", "processes") == "1 process"
    assert words.plural(3, "process", "processes") == "3 processes"
    assert [words.listed(list(t)) for t in ("", "a", "ab", "abc")] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


@pytest.mark.parametrize(
    ("spread", "share", "verdict"),
    [
        (Spread(1.3, 1.2, 1.4), 0.02, words.FASTER),
        (Spread(0.8, 0.7, 0.9), 0.02, words.SLOWER),
        (Spread(1.3, 0.9, 1.7), 0.02, words.ALIKE),
        (Spread(1.02, 1.01, 1.03), 0.05, words.ALIKE),
        (Spread(0.97, 0.96, 0.98), 0.05, words.ALIKE),
        (Spread(1.5, 1.2, 1.8), 1.5, words.NOISY),
        (Spread(3.0, 2.0, 4.0), 1.5, words.FASTER),
        (Spread(46.0, 4.5, 500.0), 0.02, words.NOISY),
    ],
)
def test_a_verdict_takes_the_noise_into_account(spread: Spread, share: float, verdict: str) -> None:
    assert words.verdict(spread, share) == verdict


def test_the_headline_is_about_the_fastest_of_the_others() -> None:
    assert findings.headline(sample_reports.report()) == (
        "1-bit lenet: 5.4 times as fast as ONNX Runtime int8, 20 times smaller than float32"
    )


def test_a_loss_is_said_as_plainly() -> None:
    lost = sample_reports.report(slower=10)
    assert findings.headline(lost) == (
        "1-bit lenet: slower than ONNX Runtime int8, which is 1.9 times as fast, "
        "20 times smaller than float32"
    )
    text = " ".join(findings.sentences(lost))
    assert "Slower than ONNX Runtime int8 (batch 1, 1 thread: 0.54 times as fast; " in text
    assert "Faster than every engine" not in text
    assert "4.1 times as fast as PyTorch float32" in text
    once = " ".join(findings.sentences(replace(lost, runs=lost.runs[:1])))
    assert "Slower than ONNX Runtime int8 (0.54 times as fast)." in once


def test_noise_is_no_win() -> None:
    even = sample_reports.report(slower=65 / 12)
    assert findings.headline(even).startswith("1-bit lenet: no certain difference from ONNX")
    assert "No certain difference from ONNX Runtime int8 (batch 1, 1 thread" in " ".join(
        findings.sentences(even)
    )


def test_what_is_not_known_is_said() -> None:
    small = sample_reports.small()
    assert findings.headline(small) == "lenet: 12.0 µs a call"
    assert findings.sentences(small) == [
        "A call takes 12.0 µs (batch 1, 1 thread).",
        "No other engine was measured.",
        "How many of its answers are right was not measured.",
    ]
    assert words.noise(small) == words.SINGLE
    several = replace(sample_reports.report().runs[0], noise=None)
    assert words.noise(replace(small, runs=(several,))) == words.ALONE
    assert findings.headline(replace(small, runs=())) == "lenet: not timed"


def test_one_sample_claims_nothing() -> None:
    whole = sample_reports.timed(12e-6, 65e-6, 9e-6)
    once = replace(whole, runs=(replace(whole.runs[0], noise=None),))
    assert findings.headline(once).startswith("1-bit lenet: one sample of 12.0 µs a call, ")
    text = " ".join(findings.sentences(once))
    assert words.SINGLE in text
    assert "times as fast" not in text
    assert "Faster" not in text
    assert not any(words.judged(once.runs[0], time) for time in once.runs[0].times)


def test_what_is_too_noisy_has_no_number() -> None:
    whole = sample_reports.report()
    run = whole.runs[0]
    wild = Noise(Spread(1.076, 1e-9, 97109077.0), 97109076.0)
    times = tuple(
        replace(t, samples=((1e-5,), (18e-5,)), speedup=Spread(12.5, 1e-9, 5e9)) for t in run.times
    )
    found = replace(whole, runs=(replace(run, noise=wild, times=times),))
    said = "too noisy to tell: the 2 processes differ 18 times; take more processes."
    assert words.noise(found) == f"Batch 1, 1 thread: {said}"
    assert words.noise_share(found.runs[0]) == "over 100 %"
    assert findings.headline(found).startswith("1-bit lenet: too noisy to tell from ")
    said = " ".join(findings.sentences(found))
    assert (
        "Too noisy to tell from ONNX Runtime int8, PyTorch int8 fbgemm and PyTorch float32." in said
    )
    assert "times as fast" not in said
    twice = replace(found, runs=(*found.runs, *found.runs))
    assert "PyTorch float32 (batch 1, 1 thread; batch 1, 1 thread)" in " ".join(
        findings.sentences(twice)
    )
    assert words.interval(times[2].speedup or wild.ratio) == "more than 10 times either way"
    near = tuple(replace(t, samples=((1e-5,), (1.31e-5,))) for t in run.times)
    assert "2 processes differ by 31 %;" in words.loud(replace(run, noise=wild, times=near))
    alone = tuple(replace(t, samples=((1e-5, 2e-5),)) for t in run.times)
    assert words.loud(replace(run, noise=wild, times=alone)).endswith("by more than 100 %.")


def test_a_loss_in_size_is_said_as_plainly() -> None:
    won = sample_reports.report()
    assert (
        "The program is 5.1 times smaller than the smallest of the others, PyTorch int8 fbgemm."
        in " ".join(findings.sentences(won))
    )
    lost = about(won, size=590_000)
    assert findings.headline(lost).endswith(
        "4.0 times smaller than float32 but 1.01 times the size of PyTorch int8 fbgemm"
    )
    text = " ".join(findings.sentences(lost))
    assert "The program of 576.2 KiB is larger than PyTorch int8 fbgemm (570.3 KiB)." in text
    both = " ".join(findings.sentences(about(won, size=600_000)))
    assert "than PyTorch int8 fbgemm (570.3 KiB) and ONNX Runtime int8 (583.6 KiB)." in both
    even = about(won, size=2_400_000)
    assert "1.03 times the size of float32 and 4.1 times the size of Py" in findings.headline(even)
    alone = sample_reports.small()
    assert "size" not in findings.headline(alone)
    assert not any("maller" in text or "larger" in text for text in findings.sentences(alone))


def test_an_accuracy_that_falls_comes_first() -> None:
    fallen = about(sample_reports.report(), accuracy=Accuracy(0.971, 0.941))
    assert findings.sentences(fallen)[0] == "Accuracy falls from 97.10 % (float) to 94.10 %."
    kept = findings.sentences(about(sample_reports.report(), accuracy=Accuracy(0.971, 0.972)))
    assert kept[0].startswith("A call takes ")
    assert kept[-1] == "97.20 % of its answers are right; of the float network, 97.10 %."


def test_accuracies_that_only_the_widths_know() -> None:
    report = sample_reports.report()
    assert report.engine("fbgemm").accuracy is None
    assert words.engine_accuracy(report, report.engine("fbgemm")) == 0.9947
    assert words.engine_accuracy(report, report.engine("onnxruntime")) is None
    assert words.engine_accuracy(report, report.engine(OURS)) is None  # of which there are several
    own = replace(report.engine("fbgemm"), accuracy=0.5)
    assert words.engine_accuracy(report, own) == 0.5


def about(report: Report, **changes: object) -> Report:
    return replace(report, subject=replace(report.subject, **changes))  # type: ignore[arg-type]


def test_widths_accuracy_and_training() -> None:
    report = sample_reports.report()
    assert findings.subject(about(report, bits=(1, 2))) == (
        "lenet with 1-bit weights and 2-bit activations"
    )
    untrained = about(report, training="not trained", accuracy=Accuracy(None, 1.5))
    assert findings.sentences(untrained)[-2:] == [
        "Its accuracy, as the model file measures it, is 1.5.",
        "Its weights were not trained: times and sizes hold, accuracy and SQNR say nothing.",
    ]
    eight = about(report, training="not trained", bits=(8, 8))
    assert findings.sentences(eight)[-1].endswith(
        "accuracy says nothing. Times, sizes and SQNR hold."
    )
    assert findings.headline(about(report, size_before=100_000)).endswith(
        "1.1 times the size of float32"
    )


def test_noise_differs_by_setting() -> None:
    report = sample_reports.report()
    assert words.noise(report).startswith("Differences under 2.0 % are noise")
    louder = replace(report.runs[0], noise=Noise(Spread(1.0, 0.9, 1.1), 0.1))
    assert "under 2.0 % to 10.0 %, by setting, are noise" in words.noise(
        replace(report, runs=(louder, *report.runs[1:]))
    )
    assert [e.key for e in words.missing(report)] == ["openvino"]
    assert words.own_time(words.first_run(report)) == next(
        t.seconds for t in report.runs[0].times if t.engine == OURS
    )


def test_bits() -> None:
    pairs = (None, (1, 1), (8, 32), (32, 32))
    assert list(map(words.bits, pairs)) == ["–", "1/1", "8/float", "float"]


def test_a_subject_in_float() -> None:
    report = sample_reports.report()
    assert findings.subject(about(report, bits=(32, 32))) == "float lenet"
    weights = findings.subject(about(report, bits=(4, 32)))
    assert weights == "lenet with 4-bit weights and float activations"
