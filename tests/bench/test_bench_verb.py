"""`qcompile bench` as it is typed: a model and a program, a process each, and what is written."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sample_reports
from rich.console import Console

import qcompile
from qcompile import cli, model_file
from qcompile.bench import benchmark, files, handing, machine_facts, measuring, subject, verb
from qcompile.bench.built import Built
from qcompile.bench.html import charts
from qcompile.bench.results import AGAIN, OURS, Engine, Machine, Report
from qcompile.bench.traffic import running
from qcompile.ir.target import Target
from qcompile.job import Job
from qcompile.quant.recipe import Recipe
from qcompile.runtime import cores
from qcompile.steps import Steps

MODEL = """
import os
import torch
from torch import nn

model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
example_inputs = torch.zeros(1, 6)
os.system("echo noise")  # a library that prints past Python
with open(os.path.join(os.path.dirname(__file__), "seen.txt"), "a") as seen:
    print(len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS"), file=seen)


def calibration_data():
    return [torch.randn(4, 6, generator=torch.Generator().manual_seed(i)) for i in range(2)]


def evaluate(model):
    return float(model(example_inputs).shape[1]) / 4


def train(model, epochs=3):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3 * epochs)
    model(torch.randn(4, 6))
"""
QUICK = "--seconds 0.001 --rounds 2 --processes 1 --batch 2 --threads 1"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "net.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        file = model_file.read(str(folder / "net.py"))
    made = qcompile.compile(
        file.model, file.example_inputs, bits=8, calibration=list(file.calibration_data())
    )
    made.save(folder / "net.qcp")
    return folder / "net.qcp"


def bench(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    code = cli.main(["bench", *words.split()])
    out, err = capsys.readouterr()
    assert code == cli.OK, err
    return out, err


def test_a_model_from_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own, beside PyTorch; written as JSON and Markdown."""
    words = f"net.py --bits 8 {QUICK} --against fp32 --parts graphs --json r.json --markdown r.md"
    out, err = bench(words, capsys)
    assert "process 1 of 1, 1 thread, batch 2" in err
    report = files.load("r.json")
    own = report.subject
    assert (own.name, own.source, own.bits, own.mode) == ("net", "net.py", (8, 8), "static")
    assert own.training == "not trained"
    assert own.accuracy.compiled is None  # train() is there, and was not called
    assert own.parameters == 6 * 64 + 64 + 64 * 64 + 64 + 64 * 3 + 3
    assert own.size_before == 4 * own.parameters
    assert len(own.sha256) == 64
    assert report.command == f"qcompile bench {words}"
    assert report.settings.rounds == 2
    assert [engine.key for engine in report.engines] == [OURS, AGAIN, "fp32"]
    assert all(engine.size and engine.name and engine.version for engine in report.engines)
    assert (report.engine(OURS).sqnr_db or 0) > 15
    [run] = report.runs
    assert [len(time.samples[0]) for time in run.times] == [2, 2, 2]
    assert len(report.graphs) == 2
    facts = [fact for node in report.graphs[0].nodes for fact in node.facts]
    assert all(len(value) < 40 and "/" not in value for name, value in facts if name == "source")
    assert str(Path.cwd()) not in Path("r.json").read_text()
    assert report.absent == dict.fromkeys(("layers", "roofs", "widths"), "not asked for (--parts)")
    assert any("Nothing was trained" in note for note in report.notes)
    assert "Verified on 8 samples of calibration_data()." in out
    assert report.machine.load is not None
    assert "wrote r.json" in out
    assert "PyTorch float32" in Path("r.md").read_text()
    assert sorted(p.name for p in Path().iterdir() if p.is_file()) == [
        *("net.py", "r.json", "r.md", "seen.txt")
    ]
    assert Path("seen.txt").read_text().splitlines()[-1] == "1 1"  # in the process that measured


def test_a_program_alone(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sample: it works, and says nothing of noise; others need the float network."""
    words = f"{program} {QUICK} --rounds 1 --against fp32,openvino --parts none --json r.json"
    out, _ = bench(words, capsys)
    report = files.load("r.json")
    assert (report.subject.bits, report.subject.parameters) == ((8, 8), None)
    assert [time.engine for time in report.runs[0].times] == [OURS, AGAIN]
    assert report.runs[0].noise is None
    assert "One sample tells nothing" in out
    for key in ("fp32", "openvino"):
        assert report.engine(key).reason == "a program alone has no float network"
        assert "--model MODEL" in report.engine(key).hint
    assert report.engine(OURS).sqnr_db is None


# --- what is built -------------------------------------------------------------------------------


def job(**more: object) -> Job:
    given = {"model": "net.py", "recipe": Recipe(8), "targets": (Target(),)}
    return Job(**(given | more))  # type: ignore[arg-type]


def steps() -> Steps:
    return benchmark.Noted(Console(quiet=True))


def test_a_trained_model_has_its_accuracy() -> None:
    noted = steps()
    built = subject.from_model(job(epochs=2), noted, train=True, widths=(1, 2, 8))
    assert built.made is not None
    assert isinstance(noted, benchmark.Noted)
    assert noted.notes[0] == (
        "To be trained, 4 times: the float network and quantized at 8 bits, 1 bit and 2 bits, 2 epochs each; "
        "--widths none leaves the other widths out."
    )
    assert (built.made.trained, built.made.recipe.mode) == ("trained, 2 epochs", "qat")
    found = subject.accuracy(built, noted)
    assert (found.float32, found.compiled) == (0.75, 0.75)
    assert built.file is built.made.file
    assert running(built.made, built.program.variant.arch) == Target()


def test_what_is_trained_is_said_beforehand() -> None:
    file = model_file.read("net.py")
    weighted = job(weights=Path("w.safetensors"))
    assert subject._ahead(job(), file, []) == (
        "To be trained, 1 time: the float network, as long as train() does by itself."
    )
    assert subject._ahead(weighted, file, ["8 bits"]).startswith("To be trained, 1 time: quantized")
    assert subject._ahead(weighted, file, []) == "To be trained, 0 times: nothing."


def test_it_is_verified_on_a_few_where_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "VERIFYING", 0.0)
    noted = benchmark.Noted(Console(quiet=True))
    subject.from_model(job(), noted, train=False)
    assert "Verified on 2 samples of calibration_data()." in noted.notes


def test_a_model_with_weights_is_calibrated() -> None:
    from safetensors.torch import save_model

    file = model_file.read("net.py")
    save_model(file.model, "w.safetensors")
    built = subject.from_model(job(weights=Path("w.safetensors")), steps(), train=False)
    assert built.made is not None
    assert (built.made.trained, built.made.recipe.mode) == ("from w.safetensors", "static")


def test_a_program_beside_its_network(program: Path) -> None:
    made = subject.from_program(str(program), None)
    built = subject.beside(made, str(program), model_file.read("net.py"))
    assert built.file is not None
    assert built.made is None
    told = handing.hand_over(Built(made, "net.qcp"), Path(), 3, 7)
    assert told.told == "random numbers, seed 7"


def test_how_precise_the_program_is(program: Path) -> None:
    made = subject.from_program(str(program), None)
    assert benchmark._precision(Built(made, "net.qcp")) == "8-bit weights and activations"


def test_what_is_said_of_busy_machines_and_small_containers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine_facts, "quota", lambda: 1.5)
    machine = Machine("x", "y", 4)
    busy, small = benchmark._busy(2.0, machine)
    assert "busy" in busy
    assert "load 2.00 on 4 processors" in busy
    assert "1.5 of 4 processors' time" in small
    monkeypatch.setattr(machine_facts, "quota", lambda: None)
    assert benchmark._busy(0.1, machine) == []


def test_a_part_that_cannot_be_had_is_said_and_the_others_are_kept() -> None:
    from qcompile.bench.parts import Found

    noted = steps()
    found = Found()
    with found.part("graphs", noted):
        raise qcompile.QCompileError("it cannot be drawn")
    assert found.absent == {"graphs": "it cannot be drawn"}


# --- inputs, and how near the program is ---------------------------------------------------------


EXAMPLES = MODEL[: MODEL.index("def calibration_data")].replace("torch.zeros", "torch.ones")


def test_without_calibration_data_inputs_are_the_examples(tmp_path: Path) -> None:
    """Random ones only of a file that has no inputs at all, but their shape."""
    Path("ready.py").write_text(EXAMPLES)
    Path("shape.py").write_text(EXAMPLES.replace("example_inputs = torch.ones", "input_shape = "))
    told = {}
    for name in ("ready.py", "shape.py"):
        built = subject.from_model(job(model=name), steps(), train=False)
        told[name] = handing.hand_over(built, tmp_path, 3, 7)
    assert told["ready.py"].told == "the example inputs, 1 sample, again and again"
    assert told["ready.py"].inputs[0].tolist() == [[1.0] * 6] * 3
    assert told["shape.py"].told == "random numbers, seed 7"
    assert len({tuple(row) for row in told["shape.py"].inputs[0].tolist()}) == 3


def test_engines_and_widths_have_one_sqnr(capsys: pytest.CaptureFixture[str]) -> None:
    """On the same inputs, of the same output: of the program, and of what both tables have."""
    Path("pair.py").write_text(PAIR)
    words = f"pair.py --bits 8 {QUICK} --against fbgemm --parts widths --widths 8 --json r.json"
    bench(words, capsys)
    report = files.load("r.json")
    for width in report.widths:
        if width.engine != "fp32":
            engine = report.engine(width.engine)
            assert width.sqnr_db == pytest.approx(engine.sqnr_db, abs=1e-6), width.name
    assert sum(width.sqnr_db is not None for width in report.widths) == 2


PAIR = """
import torch
from torch import nn


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 32), nn.Linear(32, 3), nn.Linear(32, 4)

    def forward(self, x):
        y = torch.relu(self.one(x))
        return self.two(y), self.three(y)


torch.manual_seed(0)
model = Pair()
example_inputs = torch.randn(4, 6)


def calibration_data():
    return [torch.randn(8, 6, generator=torch.Generator().manual_seed(i)) for i in range(9)]
"""


def test_a_program_of_other_weights_is_found_out(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It computes something else than the network that is beside it."""
    less = (
        "with torch.no_grad():\n    for value in model[4].parameters():\n        value.mul_(0.01)\n"
    )
    Path("other.py").write_text(EXAMPLES + less)
    words = f"{program} --model other.py {QUICK} --against none --parts none --json r.json"
    bench(words, capsys)
    report = files.load("r.json")
    assert (report.engine(OURS).sqnr_db or 99) < benchmark.UNRELATED
    assert any("nothing to do with" in note and "--weights" in note for note in report.notes)


def test_what_sqnr_says_is_told(program: Path) -> None:
    noted = steps()
    made = subject.from_model(job(epochs=1), noted, train=True)
    asked = cast(Any, SimpleNamespace(weights=None))
    known = subject.describe(made, _saved(made), "")
    assert "how far training moved it" in benchmark._of_sqnr(asked, made, known, [])[0]
    beside = Built(subject.from_program(str(program), None), "net.qcp")
    near, far = Engine(OURS, "", sqnr_db=30.0), Engine(OURS, "", sqnr_db=-4.6)
    known = subject.describe(beside, _saved(beside), "")
    assert benchmark._of_sqnr(asked, beside, known, [near]) == []
    assert "At −4.6 dB" in benchmark._of_sqnr(asked, beside, known, [far])[0]
    asked.weights = Path("w.safetensors")
    assert "than w.safetensors" in benchmark._of_sqnr(asked, beside, known, [far])[0]
    # One bit that nobody trained is that far from float by itself.
    assert benchmark._of_sqnr(asked, beside, replace(known, bits=(1, 1)), [far]) == []


def _saved(built: Built) -> Path:
    handing.hand_over(built, Path(), 1, 0)
    return Path()


@pytest.mark.parametrize(
    ("recipe", "method"),
    [
        (Recipe(1, method="xnor"), "xnor"),
        (Recipe(8), "affine"),
        (Recipe(4, method="lsq"), "lsq"),
        (Recipe(4, method="lsq", mode="static"), "affine"),
        (Recipe(2, method="dorefa"), "dorefa"),
    ],
)
def test_the_method_is_that_whose_quantizers_there_are(recipe: Recipe, method: str) -> None:
    assert subject._method(recipe) == method


# --- a report again ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_reports.report()


def test_a_result_is_shown_again_and_nothing_is_measured(
    report: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files.save(report, "r.json")

    def fails(*args: object) -> None:
        raise AssertionError("something is measured")

    drawn: list[Path] = []
    monkeypatch.setattr(measuring, "measure", fails)
    monkeypatch.setattr(charts, "save", lambda report, folder: drawn.append(folder))
    out, err = bench("r.json --markdown r.md --json again.json --figures f", capsys)
    assert err == ""
    assert "PyTorch int8 fbgemm" in out
    assert json.loads(Path("again.json").read_text()) == json.loads(Path("r.json").read_text())
    assert Path("r.md").read_text().startswith("## lenet: qcompile bench")
    assert drawn == [Path("f")]
    assert Path("f").is_dir()


def test_rendering_needs_neither_torch_nor_the_compiler(report: Report) -> None:
    """As far as this package imports: in a process that has loaded neither."""
    import subprocess

    files.save(report, "r.json")
    script = (
        "import sys; from qcompile import cli;"
        "code = cli.main(['bench', 'r.json', '--markdown', 'r.md']);"
        "sys.exit(code or ' '.join(m for m in ('torch', 'tvm') if m in sys.modules) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path("r.md").read_text().startswith("## lenet")


# --- options -------------------------------------------------------------------------------------


def test_lists() -> None:
    assert verb.numbers("--batch", "1, 8,1") == (1, 8)
    assert verb._against("fp32,openvino,fp32") == ("fp32", "openvino")
    assert verb._against("none") == ()
    assert verb._against(None) == ("fp32", "inductor", "fbgemm", "x86", "onnxruntime", "openvino")
    assert verb._threads(None) == tuple(dict.fromkeys((1, cores())))
    assert verb._listed("--parts", "none", ("a",)) == ()


def test_the_command_is_as_it_was_typed() -> None:
    words = ["net.py", "--override", "a b=8"]
    assert verb.parser(words).get_default("command") == "qcompile bench net.py --override 'a b=8'"


# --- weights that nobody trained -----------------------------------------------------------------


def test_nothing_is_said_of_how_near_a_stranger_is(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program beside its network without the weights that it was made of."""
    words = f"{program} --model net.py {QUICK} --against fp32 --parts none --json r.json"
    bench(words, capsys)
    report = files.load("r.json")
    assert (report.subject.accuracy.float32, report.subject.accuracy.compiled) == (None, 0.75)
    assert (report.engine(OURS).sqnr_db, report.engine("fp32").accuracy) == (None, None)
    assert any("nobody trained" in note for note in report.notes)


def test_weights_that_a_file_without_training_has_are_its_own() -> None:
    text = MODEL[: MODEL.index("def train")]
    Path("ready.py").write_text(text)
    built = subject.from_model(job(model="ready.py"), steps(), train=False)
    assert built.made is not None
    assert built.made.trained == "as the model file has them"
