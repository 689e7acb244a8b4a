"""The pictures in docs/pictures: of reports, and of what the commands print.

    python docs/make_pictures.py                   measures everything first: ten minutes
    python docs/make_pictures.py --keep reports    and keeps the reports, as JSON
    python docs/make_pictures.py --from reports    draws them again

Reports are photographed in headless Chromium, with the helper of the tests; terminals are drawn by rich.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser import Browser, browser
from PIL import Image
from rich.console import Console

from qcompile import explain_verb
from qcompile.bench import compare_verb, files, verb
from qcompile.bench.html.page import page

Verb = Callable[[argparse.Namespace, Console, Console], int]
LENET = "examples/mnist.py --bits 1"
BIREAL = "qcompile.zoo.resnet:birealnet18 --bits 1 --input-shape 1,3,224,224"
REPORTS = {
    "lenet": f"bench {LENET} --train --json lenet.json --html lenet.html",
    "lenet-int8": f"bench {LENET} --kernel int8 --parts none --json lenet-int8.json",
    "birealnet18": f"bench {BIREAL} --json birealnet18.json --html birealnet18.html",
}
PAGES = ("lenet", "birealnet18")  # of these, screenshots
QUICK = "--seconds 0.2 --processes 2 --rounds 20 --batch 1 --threads 1 --widths none"
EXPLAINED = {"lenet-explain": f"explain {LENET}", "birealnet18-explain": f"explain {BIREAL}"}
COMPARED = "compare lenet.json lenet-int8.json"
# Of a report: size of the window, whether dark, the section at its top.
VIEWS = {
    "wide": ((1280, 1800), False, ""),
    "layers": ((1280, 1800), False, "layers"),
    "dark": ((1280, 1500), True, "roofline"),
    "graphs": ((1280, 900), False, "graphs"),
    "narrow": ((390, 1500), False, ""),
}
COLOURS = (256, 128, 64, 32)
MOST = 300_000  # bytes of a picture
COLUMNS = 120


def main() -> None:
    """Measure or read the reports, and draw everything."""
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.source or options.keep or Path(scratch)).resolve()
        if options.source is None:
            folder.mkdir(exist_ok=True)
            measure(folder, quick=options.quick)
        options.to.mkdir(exist_ok=True, parents=True)
        for path in (*terminals(folder, options.to), *screenshots(folder, options.to)):
            print(f"{path.stat().st_size:>9,} {path}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help="of reports")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for the reports")
    parser.add_argument("--quick", action="store_true", help="a trial: the numbers mean little")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "pictures", metavar="DIR")
    return parser.parse_args()


def measure(folder: Path, *, quick: bool = False) -> None:
    """Make the reports, with the commands that they show."""
    (folder / "examples").unlink(missing_ok=True)
    (folder / "examples").symlink_to(ROOT / "examples")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for words in map(shlex.split, REPORTS.values()):
        command = [*words, *(_shorter(words) if quick else ())]
        print("$ qcompile", *command, flush=True)
        subprocess.run(
            [sys.executable, "-m", "qcompile", *command], cwd=folder, env=environment, check=True
        )


def _shorter(words: Sequence[str]) -> list[str]:
    return [*shlex.split(QUICK), *(("--epochs", "1") if "--train" in words else ())]


# --- terminals -----------------------------------------------------------------------------------


def terminals(folder: Path, to: Path) -> Iterator[Path]:
    """What each command prints, as SVG."""
    for name in PAGES:
        command = files.load(folder / f"{name}.json").command
        shown = ["bench", f"{name}.json"]
        yield _terminal(folder, to / f"{name}-bench.svg", command, shown)
    for name, text in EXPLAINED.items():
        yield _terminal(ROOT, to / f"{name}.svg", f"qcompile {text}", shlex.split(text))
    yield _terminal(folder, to / "compare.svg", f"qcompile {COMPARED}", shlex.split(COMPARED))


def _terminal(folder: Path, path: Path, command: str, words: Sequence[str]) -> Path:
    verbs: dict[str, tuple[argparse.ArgumentParser, Verb]] = {
        "bench": (verb.parser(words[1:]), verb.run),
        "explain": (explain_verb.parser(), explain_verb.run),
        "compare": (compare_verb.parser(), compare_verb.run),
    }
    parser, run = verbs[words[0]]
    out = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False
    )
    out.print(f"$ {command}", markup=False)
    with _in(folder):
        run(parser.parse_args(list(words[1:])), out, Console(file=io.StringIO()))
    text = out.export_svg(title="qcompile", unique_id=path.stem)
    # Its font would come from the network; the reader's own has the same widths.
    text = re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)
    path.write_text(text, encoding="utf-8")
    return path


@contextmanager
def _in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# --- reports -------------------------------------------------------------------------------------


def screenshots(folder: Path, to: Path) -> Iterator[Path]:
    """Each report in each of the views, as PNG."""
    with browser() as chromium, tempfile.TemporaryDirectory() as scratch:
        for name in PAGES:
            path = Path(scratch) / f"{name}.html"
            path.write_text(page(files.load(folder / f"{name}.json")), encoding="utf-8")
            for view, (size, dark, section) in VIEWS.items():
                chromium.open(path, size, dark=dark)
                yield _screenshot(chromium, section, to / f"{name}-{view}.png")


def _screenshot(chromium: Browser, section: str, path: Path) -> Path:
    chromium.ask("location.hash = arguments[0]", section)
    write(Image.open(io.BytesIO(chromium.screenshot())).convert("RGB"), path)
    return path


def write(image: Image.Image, path: Path) -> None:
    """As PNG of as many colours as fit in `MOST` bytes."""
    for count in COLOURS:
        data = _png(image, count)
        if len(data) <= MOST:
            path.write_bytes(data)
            return
    raise SystemExit(f"{path} takes {len(data):,} bytes with {COLOURS[-1]} colours")


def _png(image: Image.Image, colours: int) -> bytes:
    buffer = io.BytesIO()
    # The one method that keeps colours which few pixels have.
    small = image.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
