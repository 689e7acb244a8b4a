"""What a network would be compiled to is what it is compiled to; why, and what would change it."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import qcompile
from qcompile import cli
from qcompile.explanation import Explanation, Item, Note, explain
from qcompile.explanation_hints import hint
from qcompile.explanation_report import to_json
from qcompile.ir.target import Target

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3)
        self.body = nn.Sequential(nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3))
        self.thin = nn.Conv2d(32, 8, 1, groups=8)
        self.kept = nn.Conv2d(8, 64, 3)
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(256, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.body(self.stem(x))
        x = self.pool(self.kept(self.thin(x)))
        return self.head(self.fc(x.flatten(1)))

torch.manual_seed(0)
model = Net()
example_inputs = torch.randn(2, 3, 10, 10)
"""
LINES = {"stem": 17, "thin": 18, "head": 19}
RECIPE = qcompile.Recipe(mode="static", overrides={"kept": 8})


def shown(found: Explanation, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(found)
    return capture.get()


def item_of(found: Explanation, path: str) -> Item:
    [item] = [item for item in found.items if item.path == path]
    return item


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "net.py"
    path.write_text(MODEL)
    return path


@pytest.fixture(scope="module")
def found(file: Path) -> Iterator[Explanation]:
    from qcompile import model_file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        read = model_file.read(str(file))
        yield explain(read.model, read.example_inputs, RECIPE, target="cpu:haswell", name="net")


# --- it is what compile makes --------------------------------------------------------------------


def test_it_says_what_compile_makes(found: Explanation, file: Path) -> None:
    from qcompile import model_file

    read = model_file.read(str(file))
    program = qcompile.compile(read.model, read.example_inputs, target="cpu:haswell", recipe=RECIPE)
    assert {x.layer: x for x in found.layers} == {x.layer: x for x in program.info.layers}
    [variant] = program.info.variants
    assert found.arch == variant.arch
    kernels = [(k.layer, k.kind) for k in variant.kernels]
    explained = [(item.path, kind) for item in found.items for kind in item.kinds]
    assert sorted(explained) == sorted(kernels)
    assert {i.path: i.macs for i in found.items if i.macs} == {
        k.layer: k.macs for k in variant.kernels if k.macs
    }


def test_shares_add_up(found: Explanation) -> None:
    shares = [found.share(item) for item in found.items]
    assert sum(share or 0 for share in shares) == pytest.approx(1)
    assert item_of(found, "stem").seconds
    assert item_of(found, "body.1").measured
    assert not item_of(found, "stem").measured  # its input is quantized first
    assert "estimates, nothing was run: costs of products were measured on" in found.basis


def test_the_network_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.Linear(64, 3)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    explain(net, torch.randn(2, 8), qcompile.Recipe(8, mode="static"))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.training


def test_a_forced_kernel_is_taken() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 3, 1))
    x = torch.randn(1, 3, 8, 8)
    recipe = qcompile.Recipe(mode="static")
    found = explain(net, x, recipe, target="cpu:haswell", kernel={"1": "int8"})
    assert item_of(found, "1").kinds[-1] == "int8"
    [note] = item_of(found, "1").notes
    assert note.what == "stays in bytes: int8 was asked for"
    assert "leave --kernel out" in note.change


def test_gpus_have_no_times() -> None:
    net = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 3))
    found = explain(net, torch.randn(1, 32), qcompile.Recipe(8, mode="static"), target="cuda")
    assert found.arch == "cuda"
    assert found.seconds is None
    assert [found.share(item) for item in found.items] == [None] * len(found.items)
    assert {k for item in found.items for k in item.kinds} >= {"int8"}
    assert "qcompile inspect --target cuda" in shown(found)


def test_processors_that_nobody_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from qcompile.codegen.costs import model, survey

    for module in (model, survey):
        monkeypatch.setattr(module, "shipped", dict)
    net = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 3))
    found = explain(net, torch.randn(1, 32), qcompile.Recipe(8, mode="static"))
    assert "nothing was measured on such processors" in found.basis
    assert not any(item.measured for item in found.items)
    assert found.seconds


# --- why -----------------------------------------------------------------------------------------


def test_few_bits_that_are_multiplied_as_bytes_say_so() -> None:
    """Of 8 bits there is nothing to say, and what a pass declined is the reason itself."""
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))
    recipe = qcompile.Recipe(2, mode="static")
    found = explain(model, torch.randn(2, 64), recipe, target="cpu:icelake-server")
    whys = {layer.layer: layer.why for layer in found.layers}
    assert whys == {"0": "", "1": "no faster way is known: 2 bits save size, not time", "2": ""}


def test_reasons_with_lines_and_hints(found: Explanation, file: Path) -> None:
    stem, thin, kept, head = (item_of(found, path) for path in ("stem", "thin", "kept", "head"))
    assert stem.notes[0] == Note("first layer", hint("first layer", "stem"))
    assert "--override stem=BITS" in stem.notes[0].change
    assert head.notes[0].what == "last layer"
    assert kept.notes == (Note("an override says so", "another --override, or none"),)
    [thin_note] = thin.notes
    assert thin_note.what == "groups=8 leaves 4 channels a group, a word holds 32"
    assert "groups of a multiple of 32 channels" in thin_note.change
    assert item_of(found, "body.1").notes == ()
    for path, line in LINES.items():
        assert item_of(found, path).where == f"{file}:{line}"


def test_layers_that_stay_float() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    net[1].weight = net[0].weight
    found = explain(net, torch.randn(2, 8), qcompile.Recipe(4, mode="static"))
    notes = {item.path: item.notes for item in found.items if item.notes}
    assert [n.what for n in notes["0"]] == ["it shares its weight with 1"]
    assert [n.change for n in notes["1"]] == ["give it a weight of its own"]


def test_float_that_was_asked_for() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    found = explain(net, torch.randn(2, 8), qcompile.Recipe(32, mode="static"))
    assert [item.notes for item in found.items if item.layer] == [
        (Note("float was asked for", "--bits N quantizes it"),)
    ] * 2
    assert "float/float bits" in shown(found)


def test_convolutions_of_mode_dynamic() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 2))
    found = explain(net, torch.randn(2, 3, 4, 4), qcompile.Recipe(8, mode="dynamic"))
    [note] = item_of(found, "0").notes
    assert note.what == "dynamic quantization is for linear layers"
    assert note.change == "--mode static quantizes it too; --override 0=8/32 its weights alone"


def test_a_network_without_weights() -> None:
    found = explain(nn.ReLU(), torch.randn(2, 8), qcompile.Recipe(8, mode="static"))
    assert found.layers == ()
    assert [item.kinds for item in found.items] == [("elementwise",)]
    assert "weights" not in shown(found).splitlines()[0]


def test_untrained_widths_are_said() -> None:
    net = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 3))
    found = explain(net, torch.randn(2, 32), qcompile.Recipe(mode="static"))
    assert found.notes == ("1-bit weights have to be trained with their quantizers.",)
    assert "1-bit weights have to be trained" in shown(found)


def _texts(node: ast.expr) -> Iterator[str]:
    """What a reason may read, its values filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(p.value) if isinstance(p, ast.Constant) else "2" for p in node.values)


def reasons() -> list[str]:
    """The sentences that passes decline with, and those of plans."""
    folder = Path(cli.__file__).parent / "passes"
    found = ["first layer", "last layer", "stays int8: XNOR on 3 channels would not be faster"]
    found += ["stays in bytes: int8 was asked for", "dynamic quantization is for linear layers"]
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            declines = isinstance(node, ast.Call) and ast.unparse(node.func) == "Declined"
            obstacle = isinstance(node, ast.FunctionDef) and node.name == "_obstacle"
            if declines:
                assert isinstance(node, ast.Call)
                found += _texts(node.args[0])
            if obstacle and path.name == "choose_quantized.py":
                returned = (n.value for n in ast.walk(node) if isinstance(n, ast.Return))
                found += [text for value in returned if value for text in _texts(value)]
    return found


def test_every_reason_has_its_hint() -> None:
    assert len(reasons()) > 20
    assert [reason for reason in reasons() if not hint(reason, "layer")] == []
    assert hint("because", "layer") == ""


# --- how it is shown -----------------------------------------------------------------------------


def test_the_tree(found: Explanation) -> None:
    text = shown(found)
    lines = text.splitlines()
    assert lines[0].startswith("net, 1/1 bits, static, for cpu:haswell (haswell); about ")
    assert "; weights " in lines[0]
    rows = {line.strip("│├└─ ").split()[0]: line for line in lines if line.strip("│├└─ ")}
    assert "Conv2d" in rows["stem"]
    assert "8/8" in rows["kept"]
    assert "int8" in rows["fc"]
    assert rows["body"].endswith("body")
    columns = {rows[name].index("Conv2d") for name in ("stem", "thin", "kept")}
    assert len(columns) == 1
    assert f"first layer (net.py:{LINES['stem']}): --first-last-bits" in text


def test_names_are_no_markup() -> None:
    found = Explanation("[red]", (1, 1), "static", "cpu", "x", (Item("[bold]", ("copy",)),), "")
    text = shown(found)
    assert "[red]" in text
    assert "[bold]" in text


def test_as_json(found: Explanation) -> None:
    value = json.loads(json.dumps(to_json(found)))
    assert (value["format"], value["version"]) == ("qcompile explanation", 1)
    assert value["seconds"] == pytest.approx(found.seconds)
    assert value["bytes_before"] == sum(layer.bytes_before for layer in found.layers)
    assert 0 < value["bytes_after"] < value["bytes_before"]
    stem = next(item for item in value["items"] if item["path"] == "stem")
    assert stem["share"] == pytest.approx(found.share(item_of(found, "stem")))
    assert stem["layer"]["weight_bits"] == 8
    assert stem["where"].endswith(f"net.py:{LINES['stem']}")
    assert stem["notes"][0]["what"] == "first layer"


# --- the command ---------------------------------------------------------------------------------


def test_the_verb(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    source = MODEL + "\ndef train(model, epochs=1):\n    raise SystemExit('it is trained')\n"
    Path("net.py").write_text(source)
    words = ["explain", "net.py", "--bits", "2", "--target", "cpu", "--arch", "haswell"]
    assert cli.main([*words, "--override", "kept=4", "--json", "e.json"]) == cli.OK
    out, err = capsys.readouterr()
    assert "net, 2/2 bits, qat, for cpu:haswell" in out
    assert "wrote e.json" in out
    assert "look at the network" in err
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "e.json",
        "net.py",
    ]
    saved = json.loads(Path("e.json").read_text())
    bits = {i["path"]: i["layer"]["weight_bits"] for i in saved["items"] if i["layer"]}
    assert bits["kept"] == 4
    assert bits["thin"] == 2
    assert str(Target("cpu", "haswell")) == saved["target"]
