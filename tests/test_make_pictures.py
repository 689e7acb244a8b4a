"""The script that makes the pictures of the documents, on made-up reports."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import sample_reports
from browser import missing
from PIL import Image

from qcompile.bench import files

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "make_pictures.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pictures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def reports(tmp_path: Path, script: ModuleType) -> Path:
    whole = sample_reports.report()
    for name, slower in zip(script.REPORTS, (1.0, 1.5, 1.0), strict=True):
        report = replace(sample_reports.report(slower=slower), layers=(), graphs=(), roofs=())
        files.save(replace(report, command=f"{whole.command} & {name}"), tmp_path / f"{name}.json")
    return tmp_path


def test_terminals_are_drawn_as_text(
    script: ModuleType, reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "EXPLAINED", {})
    paths = list(script.terminals(reports, reports))
    assert [p.name for p in paths] == ["lenet-bench.svg", "birealnet18-bench.svg", "compare.svg"]
    shown = {}
    for path in paths:
        root = ElementTree.parse(path)
        shown[path.stem] = "".join(root.getroot().itertext()).replace("\xa0", " ")
        text = path.read_text(encoding="utf-8")
        assert "@font-face" not in text
        assert "url(http" not in text
    assert (
        "$ qcompile bench examples/mnist.py --bits 1 --html report.html & lenet"
        in (shown["lenet-bench"])
    )
    assert "PyTorch int8 fbgemm" in shown["birealnet18-bench"]
    assert f"$ qcompile {script.COMPARED}" in shown["compare"]


def test_reports_are_photographed_in_each_view(
    script: ModuleType, reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing():
        pytest.skip(missing())
    monkeypatch.setattr(script, "PAGES", ("lenet",))
    monkeypatch.setattr(script, "VIEWS", {k: script.VIEWS[k] for k in ("dark", "narrow")})
    paths = list(script.screenshots(reports, reports))
    assert [p.name for p in paths] == [f"lenet-{view}.png" for view in script.VIEWS]
    for path, (size, dark, _) in zip(paths, script.VIEWS.values(), strict=True):
        image = Image.open(path)
        assert image.size == size
        assert path.stat().st_size <= script.MOST
        most = max(image.convert("RGB").getcolors(1 << 24) or [])[1]
        assert isinstance(most, tuple)
        assert (sum(most) < 200) == dark


def test_what_is_too_large_takes_fewer_colours_and_never_lies_there_too_large(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    sizes = [len(script._png(image, count)) for count in script.COLOURS]
    assert sizes[0] > sizes[1] > sizes[-1]
    found = tmp_path / "noise.png"
    monkeypatch.setattr(script, "MOST", sizes[1])
    script.write(image, found)
    assert found.stat().st_size == sizes[1]
    monkeypatch.setattr(script, "MOST", 100)
    with pytest.raises(SystemExit, match=r"absent\.png takes .* bytes with 32 colours"):
        script.write(image, tmp_path / "absent.png")
    assert not (tmp_path / "absent.png").exists()
