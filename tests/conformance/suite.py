"""The conformance suite itself: how it is run, and what it found."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.process import PROJECT
from tests.fakes.programs import node

RUN_SECONDS = 180.0
SEVERITY = ("SUCCESS", "INFO", "SKIPPED", "WARNING", "FAILURE")
BAD = ("WARNING", "FAILURE")
MISSING = "MISSING"

_folder_name = re.compile(r"(?:server-)?(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


class SuiteFailed(Exception):
    """The suite itself did not work."""


@dataclass(frozen=True)
class Verdict:
    """What came of a check. An id may come several times in a scenario: the worst counts."""

    status: str
    message: str = ""
    passed: int = 0
    failed: int = 0

    def __or__(self, other: Verdict) -> Verdict:
        worse = max(self, other, key=lambda each: SEVERITY.index(each.status))
        return Verdict(worse.status, worse.message, self.passed + other.passed, self.failed + other.failed)


Verdicts = dict[str, Verdict]
"""By `scenario:check-id`, as the suite's own files of expected failures name them."""

ABSENT = Verdict(MISSING, "the check was not made")


@dataclass(frozen=True)
class Difference:
    """A check that passes direct and not through the gateway, or that fails there alone."""

    name: str
    direct: Verdict
    through: Verdict

    def __str__(self) -> str:
        return f"{self.name}: {self.direct.status} direct, {self.through.status} through: {self.through.message}"


def differences(direct: Verdicts, through: Verdicts) -> list[Difference]:
    """What the gateway loses."""
    found = []
    for name in sorted({*direct, *through}):
        before, after = direct.get(name, ABSENT), through.get(name, ABSENT)
        lost = before.status == "SUCCESS" and after.status != "SUCCESS"
        if lost or (after.status in BAD and before.status not in BAD):
            found.append(Difference(name, before, after))
    return found


def count(verdicts: Iterable[Verdict]) -> str:
    """How many checks passed, of those that could."""
    verdicts = list(verdicts)
    passed = sum(verdict.passed for verdict in verdicts)
    return f"{passed}/{passed + sum(verdict.failed for verdict in verdicts)}"


async def check_server(url: str, revision: str, folder: Path) -> Verdicts:
    """Run every scenario of a revision against a server."""
    said = await _run(["server", "--url", url, "--suite", "all", "--spec-version", revision], folder)
    return _read(folder, said)


async def check_client(scenario: str, revision: str, folder: Path, *, through: bool) -> Verdicts:
    """Run one scenario for clients with the client of ours, which may have a gateway before it."""
    command = shlex.join([sys.executable, "-m", "tests.conformance.client", *(["--through"] if through else [])])
    said = await _run(["client", "--command", command, "--scenario", scenario, "--spec-version", revision], folder)
    return _read(folder, said)


async def _run(arguments: Sequence[str], folder: Path) -> str:
    """What the suite prints; its findings are in `folder`."""
    # Its exit code says whether anything failed, which is read from what it writes.
    process = await asyncio.create_subprocess_exec(
        node(),
        _entry(),
        *arguments,
        "--output-dir",
        str(folder),
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(RUN_SECONDS):
            said, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return said.decode()


def _entry() -> str:
    modules = os.environ.get("MCPGATEWAY_TEST_NODE_MODULES") or PROJECT / "tests" / "node" / "node_modules"
    entry = Path(modules) / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    if not entry.exists():
        raise SuiteFailed(f"{entry} is not there; `make setup` installs it")
    return str(entry)


def _read(folder: Path, said: str) -> Verdicts:
    verdicts: Verdicts = {}
    for file in sorted(folder.glob("*/checks.json")):
        found = _folder_name.fullmatch(file.parent.name)
        if found is None:
            raise SuiteFailed(f"cannot tell which scenario wrote {file.parent.name}")
        for check in json.loads(file.read_text()):
            name = f"{found['scenario']}:{check['id']}"
            verdict = _verdict(check["status"], check.get("errorMessage") or "")
            verdicts[name] = verdicts[name] | verdict if name in verdicts else verdict
    if not verdicts:
        raise SuiteFailed(f"nothing was checked: {said[-2000:]}")
    return verdicts


def _verdict(status: str, message: str) -> Verdict:
    return Verdict(status, message[:300], int(status == "SUCCESS"), int(status in BAD))
