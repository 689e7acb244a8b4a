"""`python -m qcompile` is the command `qcompile`."""

from qcompile.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
