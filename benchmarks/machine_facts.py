"""On what a table was measured, and the processors that the measuring process may use."""

from __future__ import annotations

import datetime

from qcompile.bench import machine_facts


def pin(threads: int) -> None:
    """Leave this process, and the threads it starts, that many processors.

    Raises:
        SystemExit: there are not so many.
    """
    try:
        machine_facts.pin(threads)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def facts() -> dict[str, str]:
    """Processor, its telling instructions, how busy it is, versions, date."""
    machine = machine_facts.facts()
    return {
        "date": datetime.date.today().isoformat(),
        "processor": machine.processor,
        "processors": str(machine.processors),
        "instructions": " ".join(machine.instructions),
        "load": f"{machine_facts.load():.1f}",
        "system": machine.system,
        "versions": ", ".join(f"{k} {v}" for k, v in machine_facts.versions().items()),
    }
