"""Graph to graph: one file for each pass, named as the pass."""

if __name__ != "qcompile.passes":
    raise ImportError("import qcompile.passes: passes/ is reached through the link qcompile/passes")
