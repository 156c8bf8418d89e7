"""Where and with what was measured. Nothing here names the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from bench.processes import PROJECT, can_pin, program

PACKAGES = ("mcpgateway", "uvicorn", "uvloop", "httptools", "msgspec")


def machine() -> dict[str, str]:
    """The machine and its Python."""
    return {
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }


def conditions() -> dict[str, str]:
    """The machine, how it was used, and the versions."""
    return {
        **machine(),
        "pinned": "what is under test on core 0; wrk and the stub together on core 1" if can_pin() else "not: one core only",
        **{package: version(package) for package in PACKAGES},
        "commit": _commit(),
        "nginx": _first_line(program("nginx"), "-v").rpartition("/")[2],
        "wrk": _first_line(program("wrk"), "-v").split()[1],
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """What was measured, as far as git knows; with a mark where files differ from it."""
    told = _first_line("git", "describe", "--always", "--dirty=, and changes not committed")
    return told if "fatal" not in told else "unknown"


def _first_line(*command: str) -> str:
    # Some of these end with an exit code of their own after telling their version.
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    return (done.stdout + done.stderr).strip().partition("\n")[0]
