"""What is said when a program is called wrongly, or its file cannot be read or written."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_library import affine_info, affine_program, pair_program

import qcompile
from qcompile import QCompileError
from qcompile.constants import Constant
from qcompile.program import Program
from qcompile.program_file import pack
from qcompile.runtime import cores


def says(function: Callable[[], Any]) -> str:
    with pytest.raises(QCompileError) as caught:
        function()
    return str(caught.value)


# --- inputs --------------------------------------------------------------------------------------

X = torch.zeros(2, 3, 8)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            (),
            "the program takes 1 input, got 0\n  they are given by position: x: float32[N, 3, 8]",
        ),
        (
            (X, X),
            "the program takes 1 input, got 2\n  they are given by position: x: float32[N, 3, 8]",
        ),
        (
            (X.double(),),
            "input x is float64, the program takes float32[N, 3, 8]\n  pass x.float()",
        ),
        (
            (X.double().numpy(),),
            "input x is float64, the program takes float32[N, 3, 8]\n  pass x.astype('float32')",
        ),
        (
            (X.byte(),),
            "input x is uint8, the program takes float32[N, 3, 8]\n  pass x.float()",
        ),
        (
            (X[0],),
            (
                "input x has the shape [3, 8], the program takes float32[N, 3, 8]\n"
                "  the batch dimension is missing: pass x.unsqueeze(0)"
            ),
        ),
        (
            (X[0].numpy(),),
            (
                "input x has the shape [3, 8], the program takes float32[N, 3, 8]\n"
                "  the batch dimension is missing: pass x[None]"
            ),
        ),
        (
            (X.permute(0, 2, 1),),
            (
                "input x has the shape [2, 8, 3], the program takes float32[N, 3, 8]\n"
                "  the channels come last, they belong behind the batch: pass x.permute(0, 2, 1)"
            ),
        ),
        (
            (torch.zeros(2, 3, 9),),
            (
                "input x has the shape [2, 3, 9], the program takes float32[N, 3, 8]\n"
                "  only the size of the batch, dimension 0, may differ from what was compiled"
            ),
        ),
        (
            (torch.zeros(()),),
            (
                "input x has the shape [], the program takes float32[N, 3, 8]\n"
                "  only the size of the batch, dimension 0, may differ from what was compiled"
            ),
        ),
        ((X[:0],), "input x is an empty batch\n  pass at least one sample"),
        (
            (X.tolist(),),
            (
                "input x is of type list, the program takes float32[N, 3, 8]\n"
                "  pass a torch tensor, or numpy.asarray(x, dtype='float32')"
            ),
        ),
        (
            (None,),
            (
                "input x is of type NoneType, the program takes float32[N, 3, 8]\n"
                "  pass a torch tensor, or numpy.asarray(x, dtype='float32')"
            ),
        ),
        (
            (X.to("meta"),),
            "input x lies on meta, the program runs on the CPU\n  pass x.cpu()",
        ),
        (
            (X.to_sparse(),),
            "input x is a tensor of layout torch.sparse_coo\n  pass x.to_dense()",
        ),
    ],
)
def test_wrong_input(inputs: tuple[Any, ...], message: str) -> None:
    assert says(lambda: affine_program()(*inputs)) == message


def test_more_samples_than_are_run_at_once() -> None:
    program = affine_program()
    with pytest.raises(QCompileError, match="2 samples cannot be run kernel by kernel") as error:
        next(program.steps(torch.zeros(2, 3, 8)))
    assert "at most 1" in str(error.value)


def test_several_inputs_that_do_not_fit_together() -> None:
    program = pair_program()
    a, b = torch.zeros(2, 5), torch.zeros(2, 4, dtype=torch.int32)
    assert "b is float32, the program takes int32[N, 4]\n  pass x.to(torch.int32)" in says(
        lambda: program(a, b.float())
    )
    assert "batches of different sizes (a: 2, b: 1)" in says(lambda: program(a, b[:1]))
    message = says(lambda: program(a, b.numpy()))
    assert message.startswith("input b is of type ndarray, the first input of type Tensor")
    assert "all as numpy arrays" in message


@pytest.mark.parametrize("count", [0, -1, 10**6, 1.0, True, "2", None])
def test_num_threads(count: Any) -> None:
    program = affine_program()
    before = program.num_threads

    def change() -> None:
        program.num_threads = count

    assert f"a number from 1 to {cores()}" in says(change)
    assert program.num_threads == before


# --- files that are no program -------------------------------------------------------------------


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name.replace("_", "."), data)
    return buffer.getvalue()


TERNARY = Constant(np.array([-1, 0, 1, 1, 0, -1, 0, 0], np.int8))
GOOD = pack(affine_info(), [b"code"], [[TERNARY.reshape(2, 4).pad(1, 0)]]).data
DATA = bytes([255, 0, 1]) + bytes([0b10100100, 0b01010001])  # the palette, the numbers


def with_head(data: bytes = DATA, **change: Any) -> bytes:
    """A program's file with another program.json, or other constants."""
    with zipfile.ZipFile(io.BytesIO(GOOD)) as file:
        head = json.loads(file.read("program.json"))
    text = json.dumps({**head, **change}).encode()
    return archive(program_json=text, constants=data, generic_so=b"code")


def with_body(data: bytes = DATA, **change: Any) -> bytes:
    """The same by somebody who knows how: the digest of program.json fits."""
    with zipfile.ZipFile(io.BytesIO(GOOD)) as file:
        head = json.loads(file.read("program.json"))
    body = {
        name: {**head, **change}[name] for name in ("info", "constants", "libraries", "sources")
    }
    text = json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False)
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return with_head(data, **body, sha256=digest)


def with_constants(*, data: bytes = DATA, **change: Any) -> bytes:
    """Other things said about the one array, and perhaps another one."""
    array = {"dtype": "int8", "size": 8, "colours": 3, **change}
    sha256 = hashlib.sha256(data).hexdigest()
    return with_body(data, constants={"size": len(data), "sha256": sha256, "arrays": [array]})


def with_steps(*steps: tuple[str, list[int], str], memory: int = 8, array: int = 0) -> bytes:
    """Other things said about what is made of it."""
    made = [dict(zip(("op", "sizes", "dtype"), step, strict=True)) for step in steps]
    constants = [{"array": array, "steps": made}]
    return with_body(libraries=[{**LIBRARY, "memory": memory, "constants": constants}])


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("program.json", b" " * (65 << 20))
    return buffer.getvalue()


LIBRARY = {
    "name": "generic.so",
    "size": 4,
    "sha256": hashlib.sha256(b"code").hexdigest(),
    "memory": 0,
    "constants": [],
}
SOURCE = {"name": "generic.cu", "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\x7fELF" + bytes(99), "this is no qcompile program"),
        (b"PK\x03\x04 and nothing more", "the file is truncated, or something was added to it"),
        (GOOD[: len(GOOD) // 2], "the file is truncated, or something was added to it"),
        (GOOD + b"more", "the file is truncated, or something was added to it"),
        (GOOD[:4] + GOOD[-22:], "truncated or damaged ("),
        (
            GOOD.replace(b"generic.so", b"generic.sx"),
            "holds program.json, constants, generic.sx instead of",
        ),
        (GOOD.replace(b"constants", b"constantz"), "holds program.json, constantz, generic.so"),
        (archive(a_txt=b"hello"), "a zip archive without one program.json"),
        (archive(program_json=b"{"), "program.json is damaged (Expecting"),
        (archive(program_json=b"[" * 100000), "program.json is damaged ("),
        (archive(program_json=b"\xff"), "program.json is damaged ("),
        (archive(program_json=b"[]"), "this is no qcompile program"),
        (archive(program_json=b'{"format": "other"}'), "this is no qcompile program"),
        (with_head(version=6), "the file has format version 6, this qcompile reads 5"),
        (with_head(version=4), "the file has format version 4, this qcompile reads 5"),
        (with_head(version="1"), "program.json is damaged (version '1')"),
        (with_head(version=True), "program.json is damaged (version True)"),
        (with_head(info={}), "program.json is damaged (its SHA-256 differs)"),
        (with_head(sha256=None), "program.json is damaged (its SHA-256 differs)"),
        (with_body(info={}), "program.json is damaged (program lacks "),
        (with_body(info="\ud800"), "damaged ("),
        (with_body(libraries=[]), "damaged (its libraries are not those of its variants)"),
        (with_body(libraries=7), "program.json is damaged ("),
        (with_body(libraries=[7]), "program.json is damaged ("),
        (with_body(libraries=[{**LIBRARY, "name": "a.so"}]), "are not those of its variants"),
        (with_body(sources=7), "damaged (file.sources is no list)"),
        (with_body(sources=[SOURCE]), "damaged (its sources are not those of its variants)"),
        (with_body(libraries=[{**LIBRARY, "size": 5}]), "generic.so is not the one that was saved"),
        (with_body(libraries=[{**LIBRARY, "sha256": "0" * 64}]), "saved: its SHA-256 differs"),
        (with_body(libraries=[{**LIBRARY, "colour": 1}]), r"has the unknown field 'colour'"),
        (with_head(data=DATA + b"x"), "constants is not the one that was saved: it has another"),
        (with_head(data=DATA[:-1] + b"x"), "constants is not the one that was saved: its SHA-256"),
        (with_body(constants=7), "damaged (file.constants is no object)"),
        (with_body(constants={}), "damaged (file.constants lacks arrays)"),
        (with_constants(dtype="object"), "damaged (a constant has the dtype 'object')"),
        (with_constants(dtype="V4"), "damaged (a constant has the dtype 'V4')"),
        (with_constants(size=-8), "damaged (a constant has -8 elements)"),
        (with_constants(size=1 << 60), "damaged (a constant has 1152921504606846976 elements)"),
        (with_constants(size=8.0), "size is of type float, not int"),
        (with_constants(size=9), "damaged (arrays of 6 bytes in 5)"),
        (with_constants(size=1 << 40), "damaged (arrays of 274,877,906,947 bytes in 5)"),
        (with_constants(colours=-1), "damaged (a constant has -1 distinct values)"),
        (with_constants(colours=257), "damaged (a constant has 257 distinct values)"),
        (with_constants(colours=4), "damaged (arrays of 6 bytes in 5)"),
        (with_constants(colours=5), "damaged (arrays of 8 bytes in 5)"),
        (with_constants(colours=0), "damaged (arrays of 8 bytes in 5)"),
        (with_constants(dtype="int16"), "damaged (arrays of 8 bytes in 5)"),
        (with_constants(size=5), "damaged (reshape of int8 [5] to [2, 4])"),
        (
            with_constants(data=DATA[:-1] + b"\xff"),
            "constants is damaged (a constant of 3 distinct values has a number beyond them)",
        ),
        (
            with_constants(data=bytes(range(5)) + b"\xff" * 3, colours=5),
            "constants is damaged (a constant of 5 distinct values has a number beyond them)",
        ),
        (with_steps(memory=128), "damaged (generic.so has 64 bytes of constants, not 128)"),
        (with_steps(array=1), "damaged (there is no array 1)"),
        (with_steps(array=-1), "damaged (there is no array -1)"),
        (with_steps(("run", [], "")), "damaged (there is no step 'run')"),
        (with_steps(("reshape", [9], "")), "damaged (reshape of int8 [8] to [9])"),
        (with_steps(("reshape", [-2, -4], "")), "damaged (reshape to [-2, -4])"),
        (with_steps(("reshape", [1] * 17 + [8], "")), "damaged (reshape to [1, 1"),
        (with_steps(("pad", [1, 1], "")), "damaged (pad of int8 [8] to [1, 1])"),
        (with_steps(("pad", [1 << 50], "")), "damaged (pad to [1125899906842624])"),
        (with_steps(("pad", [1 << 40], ""), memory=(1 << 40) + 64), "in 5)"),
        (with_steps(("permute", [1], "")), "damaged (permute of int8 [8] to [1])"),
        (with_steps(("permute", [0, 0], "")), "damaged (permute of int8 [8] to [0, 0])"),
        (with_steps(("cast", [], "uint8")), "damaged (cast of int8 [8] to uint8)"),
        (with_steps(("cast", [], "object")), "damaged (cast of int8 [8] to object)"),
        (with_steps(("view", [], "object")), "damaged (view of int8 [8] to object)"),
        (
            with_steps(("reshape", [2, 4], ""), ("view", [], "int64")),
            "damaged (view of int8 [2, 4] to int64)",
        ),
        (
            with_steps(("reshape", [2, 4], ""), ("view", [], "float64")),
            "damaged (view of int8 [2, 4] to float64)",
        ),
        (bomb(), "program.json claims 68,157,440 bytes in 6"),
    ],
)
def test_no_program(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "net.qcp"
    path.write_bytes(data)
    said = says(lambda: qcompile.load(path))
    assert said.startswith(f"{path}: ")
    assert message in said


def test_not_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "net.qcp: there is no such file" in says(lambda: qcompile.load(tmp_path / "net.qcp"))
    assert "cannot read the file: Is a directory" in says(lambda: qcompile.load(tmp_path))
    assert "cannot read the file: embedded null" in says(lambda: qcompile.load("a\0b"))
    (tmp_path / "file").touch()
    message = says(lambda: qcompile.load(tmp_path / "file" / "net.qcp"))
    assert "cannot read the file: Not a directory" in message


def test_a_library_that_does_not_load(tmp_path: Path) -> None:
    path = tmp_path / "net.qcp"
    Program(pack(affine_info(), [b"no library"])).save(path)
    assert "the program's library cannot be loaded: " in says(lambda: qcompile.load(path))


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_room)
    message = says(lambda: affine_program()(X))
    assert "the program's library cannot be loaded: [Errno 28] No space left" in message
    assert "TMPDIR names another" in message


@pytest.mark.parametrize(
    ("hidden", "message"),
    [("tvm", "libtvm_runtime.so is not there"), ("tvm_ffi", "tvm_ffi cannot be imported")],
)
def test_no_runtime(tmp_path: Path, hidden: str, message: str) -> None:
    path = tmp_path / "net.qcp"
    affine_program().save(path)
    code = f"""
import sys
sys.modules["torch"] = sys.modules["{hidden}"] = None
import qcompile
try:
    qcompile.load(sys.argv[1])
except qcompile.QCompileError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert message in done.stdout
    assert "pip install numpy 'apache-tvm-ffi" in done.stdout


def test_a_runtime_that_does_not_load(tmp_path: Path) -> None:
    folder = tmp_path / "tvm" / "lib"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "libtvm_runtime.so").write_bytes(b"damaged")
    affine_program().save(tmp_path / "net.qcp")
    code = """
import sys
sys.modules["torch"] = None
sys.path.insert(0, sys.argv[1])
import qcompile
try:
    qcompile.load(sys.argv[2])
except qcompile.QCompileError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "net.qcp")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith(f"TVM's runtime does not load ({folder}")


# --- saving --------------------------------------------------------------------------------------


def test_nowhere_to_save(tmp_path: Path) -> None:
    program = affine_program()
    message = says(lambda: program.save(tmp_path / "no" / "net.qcp"))
    assert f"there is no folder {tmp_path / 'no'}\n  mkdir -p" in message
    assert "is there already, and is no file" in says(lambda: program.save(tmp_path))
    assert "is there already, and is no file" in says(lambda: program.save("/dev/null"))
    assert "File name too long" in says(lambda: program.save(tmp_path / ("n" * 300)))


@pytest.mark.parametrize(
    ("function", "code"),
    [("open", errno.EROFS), ("fsync", errno.ENOSPC), ("replace", errno.EACCES)],
)
def test_a_disk_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    path = tmp_path / "net.qcp"
    path.write_bytes(b"the old file")
    program = affine_program()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, function, refuse)
        message = says(lambda: program.save(path))
    assert f"cannot save the program: {os.strerror(code)}" in message
    assert path.read_bytes() == b"the old file"
    assert [p.name for p in tmp_path.iterdir()] == ["net.qcp"]


def test_arrays_of_the_other_byte_order() -> None:
    x = np.zeros((1, 3, 8), ">f4")
    assert "input x is >f4, the program takes float32[N, 3, 8]" in says(lambda: affine_program()(x))


@pytest.mark.parametrize("path", [None, 5.0])
def test_a_path_that_is_none(path: Any) -> None:
    with pytest.raises(QCompileError, match="cannot read the file: "):
        qcompile.load(path)
