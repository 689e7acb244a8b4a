"""Reports as tables: on the terminal, and as Markdown."""

from __future__ import annotations

import io
import re
import time
from dataclasses import replace

import pytest
import sample_reports
from rich.console import Console

from qcompile.bench import live, rows, words
from qcompile.bench.html.page import page
from qcompile.bench.live import Progress, tables
from qcompile.bench.markdown import markdown
from qcompile.bench.messages import At, Measured, Prepared
from qcompile.bench.results import AGAIN, OURS, Engine, Noise, Report, Run, Spread, Time


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_reports.report()


def printed(report: Report, width: int = 120) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(tables(report))
    return capture.get()


def lost() -> Report:
    """One in which an engine is twice as fast, and another as fast as the program."""
    seconds = {OURS: 2e-4, AGAIN: 2e-4, "fp32": 1e-4, "fbgemm": 2.001e-4}
    runs = (sample_reports.run(1, 1, seconds, noise=0.01),)
    return replace(sample_reports.report(), runs=runs)


def cells(report: Report, key: str) -> tuple[str, ...]:
    name = report.engine(key).name
    return next(row.cells for row in rows.rows(report, report.runs[0]) if row.cells[0] == name)


def test_a_win_a_loss_and_a_tie() -> None:
    assert cells(sample_reports.report(), "fp32")[3].endswith(" faster")
    assert cells(lost(), "fp32")[3].startswith("0.50x (")
    assert cells(lost(), "fp32")[3].endswith(" SLOWER")
    assert cells(lost(), "fbgemm")[3].endswith(" no certain difference")
    assert cells(lost(), OURS)[3] == ""


def test_what_is_missing_says_why(report: Report) -> None:
    reason = 'openvino is not installed: pip install "qcompile[bench]"'
    assert cells(report, "openvino") == ("OpenVINO int8", "-", "", "", reason)


def test_the_second_time_of_the_program_is_in_the_noise(report: Report) -> None:
    shown = [row.cells[0] for row in rows.rows(report, report.runs[0])]
    assert "qcompile, once more" not in shown
    assert rows.noise_line(report.runs[0]) == (
        "Noise: the program beside itself is 1.001x as fast (0.995 - 1.007); differences below 2.0% "
        "say nothing."
    )


def test_a_single_sample_says_nothing_of_noise() -> None:
    small = sample_reports.small()
    assert rows.noise_line(small.runs[0]) == words.SINGLE
    assert words.SINGLE in markdown(small)
    assert words.SINGLE in printed(small)
    assert words.SINGLE in page(small)


def test_intervals_of_one_process_are_of_stretches() -> None:
    whole = sample_reports.report()
    times = tuple(replace(t, samples=t.samples[:1]) for t in whole.runs[0].times)
    once = replace(
        whole,
        runs=(replace(whole.runs[0], times=times),),
        settings=replace(whole.settings, processes=1, rounds=1),
    )
    shown = page(once)
    for text in (printed(once, 200), markdown(once), shown):
        assert words.STRETCHES in text
    assert "and 1 round a process at most" in " ".join(shown.split())
    for text in (printed(whole, 200), markdown(whole), page(whole)):
        assert words.STRETCHES not in text
    assert "which follows from how the processes differ" in " ".join(page(whole).split())


def test_the_engines_table_has_accuracies_of_the_widths(report: Report) -> None:
    assert {cells[0]: cells[5] for cells in rows.engines(report)}[
        "PyTorch int8 fbgemm"
    ] == "99.47 %"
    [row] = re.findall(
        r"<th scope=.row.>PyTorch int8 fbgemm</th>\s*<td>2.13.*?</tr>", page(report), re.DOTALL
    )
    assert "99.47 %" in row


def test_noise_that_says_nothing_has_no_number() -> None:
    wild = Noise(Spread(1.076, 1e-9, 97109077.0), 97109076.0)
    run = replace(sample_reports.report().runs[0], noise=wild)
    wide = [replace(t, speedup=Spread(12.5, 1e-9, 5e9)) for t in run.times]
    report = replace(sample_reports.report(), runs=(replace(run, times=tuple(wide)),))
    assert "12.5x (more than 10 times either way) too noisy to tell" in printed(report, 160)
    for text in (printed(report), markdown(report), page(report).split("qc-numbers")[0]):
        assert "9710907" not in text
        assert "too noisy to tell" in text


def test_unsteady_times_are_marked() -> None:
    assert rows.unsteady(Spread(1.2, 1.0, 1.51))
    assert not rows.unsteady(Spread(1.2, 1.0, 1.49))
    time = Time(OURS, ((1.0, 2.0),), Spread(1.5, 1.0, 2.0), Spread(1, 1, 1))
    run = Run(1, 1, (time,), Noise(Spread(1, 1, 1), 0.01))
    [row] = rows.rows(replace(sample_reports.report(), runs=(run,)), run)
    assert row.cells[-1] == "unsteady"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.2e-6, "0.0012"), (1.234e-4, "0.123"), (1.234e-3, "1.23"), (0.01234, "12.3"), (1.5, "1500")],
)
def test_milliseconds(seconds: float, text: str) -> None:
    assert rows.milliseconds(seconds) == text


def test_the_terminal_shows_everything_in_120_columns(report: Report) -> None:
    text = printed(report)
    assert max(map(len, text.splitlines())) <= 120
    for run in report.runs:
        assert f"batch {run.batch}, {run.threads} thread" in text
    assert "PyTorch int8 fbgemm" in text
    assert "99.40 %" in text
    assert "Xeon" in text
    assert report.notes[0] in text
    assert "…" not in text


@pytest.mark.parametrize("width", [70, 80, 100, 120])
def test_nothing_is_cut_on_a_narrow_terminal(report: Report, width: int) -> None:
    far = replace(sample_reports.report(), runs=(unsteady(report.runs[0]), *lost().runs))
    text = printed(far, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    said = " ".join(text.split())
    for run in far.runs:
        for row in rows.rows(far, run, brief=True):
            assert row.cells[1] in said
            assert all(word in said for word in row.cells[3].split())
    assert "openvino is not installed: pip install" in said
    assert "unsteady" in said
    assert "99.40 %" in said
    assert ("0.0120 - " in said) == (width >= 80)


def unsteady(run: Run) -> Run:
    """The same, but that the program's quartiles lie far apart."""
    times = [
        replace(t, seconds=Spread(1.5e-5, 1.2e-5, 2.4e-5)) if t.engine == OURS else t
        for t in run.times
    ]
    return replace(run, times=tuple(times))


def test_the_widest_table_has_its_notes_beside_it(report: Report) -> None:
    [line] = [text for text in printed(lost(), 160).splitlines() if "openvino is not" in text]
    assert line.startswith(" OpenVINO int8")
    below = [text for text in printed(lost(), 80).splitlines() if "openvino is not" in text]
    assert below[0].startswith("OpenVINO int8: openvino is not installed")


def test_losses_are_coloured_as_losses() -> None:
    console = Console(width=120, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(tables(lost()))
    [line] = [line for line in capture.get().splitlines() if "SLOWER" in line]
    assert "\x1b[1;31m0.50x" in line


def test_markdown_is_tables_of_as_many_columns(report: Report) -> None:
    text = markdown(report)
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 1 + len(report.runs) + 3  # facts, engines, layers, widths
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1
        assert set(block[1]) <= set("|-:")
    assert "| **qcompile** | **0.0" in text
    assert "SLOWER" not in text


def test_markdown_shows_losses_and_is_not_led_astray(report: Report) -> None:
    text = markdown(lost())
    assert "| **0.50x (" in text
    assert "SLOWER** |" in text
    assert r"A note \<with\> marks & signs." in text
    assert r"features.0.conv\<0\>" in text
    odd = replace(report, command="qcompile bench a|b\nc")
    assert r"| command | qcompile bench a\|b c |" in markdown(odd)


def test_absent_parts_are_named() -> None:
    small = sample_reports.small()
    assert "- No layers: a program alone has no float network" in markdown(small)
    assert "No roofs: a program alone has no float network" in printed(small)


# --- progress ------------------------------------------------------------------------------------

NAMES = {OURS: "qcompile", AGAIN: AGAIN, "fp32": "fp32"}


def tell(progress: Progress) -> None:
    progress.process(1, 2, 1)
    progress.process(2, 2, 2)  # at the same time
    progress.message(At("prepare", 8, "fp32"), 1)
    progress.message(Prepared(8, Engine("fp32", "PyTorch float32")), 1)
    progress.message(Prepared(8, Engine("fp32", "PyTorch float32", reason="cannot")), 2)
    progress.message(Measured(8, {OURS: [1e-3, 2e-3], AGAIN: [1e-3], "fp32": [5e-3]}), 1)
    progress.lost("fp32", "killed by SIGSEGV")


def test_a_line_a_process_and_batch_on_a_pipe() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        progress = Progress(console, NAMES, [(8, 1), (8, 2)])
        with progress.shown():
            tell(progress)
    first, second = capture.get().splitlines()
    assert first.startswith("process 1 of 2, 1 thread, batch 8 ")
    assert second == "PyTorch float32 took its process with it: killed by SIGSEGV"


def test_a_table_that_fills_on_a_terminal() -> None:
    console = Console(width=120, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        progress = Progress(console, NAMES, [(8, 1), (8, 2)])
        with progress.shown():
            tell(progress)
    text = capture.get()
    assert "process 1 of 2, 1 thread: prepare fp32, batch 8" in text
    assert "PyTorch float32" in text
    assert " 1.50 " in text
    assert " 5.00 " in text
    assert AGAIN not in text


def test_a_bar_that_moves_while_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "REFRESHED", 100)
    shown = io.StringIO()
    console = Console(file=shown, width=120, force_terminal=True, legacy_windows=False)
    progress = Progress(console, NAMES, [(8, 1), (8, 2)])
    with progress.shown():
        progress.process(1, 2, 1)
        progress.message(At("measure", 8), 1)
        time.sleep(0.3)
    assert len({sign for sign in shown.getvalue() if "\u2800" < sign <= "\u28ff"}) > 2  # a spinner
