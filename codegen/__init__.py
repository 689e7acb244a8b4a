"""Dialect ops to machine code: the only room that imports tvm."""

if __name__ != "qcompile.codegen":
    raise ImportError(
        "import qcompile.codegen: codegen/ is reached through the link qcompile/codegen"
    )
