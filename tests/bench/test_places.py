"""Reports tell no folders of the machine that they were made on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sample_reports

from qcompile.bench import files, places

FOLDERS = {"/home/me": "~", "/home/me/work": "", "/opt/models": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/work/net.py:12", "net.py:12"),
        ("/home/me/other/net.py:12", "~/other/net.py:12"),
        ("no folder '/home/me'; /home/me.", "no folder '~'; ~."),
        ("in /home/me/work", "in ."),
        ("file:///home/me/x", "file://~/x"),
        ("/home/menno/x, /home/me.old/x, /data/home/me/x", None),
        ("/opt/models/a.py and (/opt/models/b.py)", "a.py and (b.py)"),
        ("a / b", None),
    ],
)
def test_folders_have_other_names(text: str, expected: str | None) -> None:
    assert places.shortened(text, FOLDERS) == (text if expected is None else expected)


def test_the_root_is_no_folder_to_leave_out() -> None:
    assert places.shortened("/net.py", {"/": ""}) == "/net.py"


def test_a_whole_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text of it; but the command can be run again."""
    home, work, models = (tmp_path / name for name in ("home", "home/work", "models"))
    work.mkdir(parents=True)
    models.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    made = sample_reports.report()
    layer = replace(made.layers[0], where=f"{models}/net.py:7", note=f"{home}/x and {work}/y")
    made = replace(
        made,
        layers=(layer, *made.layers[1:]),
        notes=(f"a library at {home}/lib.so says no",),
        command=f"qcompile bench {models}/net.py --html {work}/r.html",
    )
    found = places.told(made, str(models / "net.py"))
    assert (found.layers[0].where, found.layers[0].note) == ("net.py:7", "~/x and y")
    assert found.notes == ("a library at ~/lib.so says no",)
    assert found.command == f"qcompile bench {models}/net.py --html r.html"
    assert str(home) not in files.text(found).decode()
    same = replace(found, layers=made.layers, notes=made.notes, command=made.command)
    assert same == made
