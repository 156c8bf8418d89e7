"""What `check` shows of each server. Imported only there, for what writes it takes its time and memory."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from mcpgateway.services.upstream import State, UpstreamReport

_COLUMNS = {
    "transport": (9, False),
    "revision": (10, False),
    "state": (13, False),
    "tools": (5, True),
    "resources": (9, True),
    "prompts": (7, True),
    "took": (9, True),
}
"""What `check` tells beside a server's name: room, and whether it stands at the right. A line is printed before the next is
known, so that room cannot be measured."""

_out = Console(highlight=False, soft_wrap=True)


async def watch(news: AsyncIterable[list[UpstreamReport]], width: int) -> list[UpstreamReport]:
    """The last reports. A server's line is printed once it was tried, and again if it fares otherwise while others are.

    `width`: of the longest name.
    """
    reports: list[UpstreamReport] = []
    shown: dict[str, str] = {}
    _out.print(heading(width))
    with _out.status("connecting") as waiting:  # on a terminal only
        async for reports in news:
            for report in tried(reports):
                if shown.get(report.name) != report.state:
                    shown[report.name] = report.state
                    _out.print(row(report, width))
            waiting.update(f"waiting for {', '.join(escape(each.name) for each in reports if each not in tried(reports))}")
    return reports


def tried(reports: Iterable[UpstreamReport]) -> list[UpstreamReport]:
    """Those of servers whose first connection came about, or failed."""
    return [report for report in reports if report.state != State.CONNECTING]


def heading(width: int) -> Text:
    """Above what `check` shows. `width`: of the longest name."""
    return Text(_cells("server", width, *_COLUMNS), style="bold")


def row(report: UpstreamReport, width: int) -> Text:
    """What `check` shows of one server; where there is trouble, its reason below, which needs more room than a column has."""
    counts = (_number(count) for count in (report.tools, report.resources, report.prompts))
    took = "" if report.handshake_ms is None else f"{report.handshake_ms:.0f} ms"
    transport = "http" if report.transport == "streamablehttp" else report.transport
    text = Text(_cells(report.name, width, transport, report.revision, report.state, *counts, took))
    color = "red" if report.failed else "green" if report.state == "ready" else "yellow"
    start = text.plain.index(report.state, width)
    text.stylize(color, start, start + len(report.state))
    return text.append(f"\n  {report.reason}") if report.failed else text


def _cells(name: str, width: int, *cells: str) -> str:
    padded = [
        cell.rjust(room) if right else cell.ljust(room) for cell, (room, right) in zip(cells, _COLUMNS.values(), strict=True)
    ]
    return "  ".join((name.ljust(width), *padded)).rstrip()


def _number(count: int | None) -> str:
    return "" if count is None else str(count)
