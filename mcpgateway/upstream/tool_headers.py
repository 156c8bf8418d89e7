"""Which arguments of a server's tools are repeated in headers: learned from the lists of tools that pass by."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from mcpgateway.protocol import headers, jsonrpc

MAX_TOOLS = 10_000
"""That are remembered of one server. A server with more is asked again."""

_log = logging.getLogger("mcpgateway.upstream")


class _Tool(msgspec.Struct, rename="camel"):
    name: str
    input_schema: Raw = Raw(b"")


class _Page(msgspec.Struct, rename="camel"):
    tools: list[Raw] = []
    next_cursor: str | None = None


class ToolHeaders:
    """What one identity was shown of a server's tools, as far as headers go."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._known: dict[str, Sequence[headers.Mirror]] = {}

    def __repr__(self) -> str:
        return f"<ToolHeaders of {len(self._known)} tools of {self._upstream}>"

    def of(self, tool: str) -> Sequence[headers.Mirror] | None:
        """The arguments of a tool that are repeated in headers; None where the tool was not in any list."""
        return self._known.get(tool)

    def of_listed(self, tool: str) -> Sequence[headers.Mirror]:
        """The same after a listing: a tool that was not in it has none, and is not looked for again with each call."""
        if tool not in self._known:
            self._remember(tool, ())
        return self._known[tool]

    def forget(self, tool: str) -> None:
        """What is known of a tool does not hold any more."""
        self._known.pop(tool, None)

    def learn(self, result: bytes) -> bytes:
        """Take in a raw result of tools/list. The same bytes, or, where tools declare headers that nobody can send, a list
        without those tools: a client over HTTP may not use them."""
        page = _page(result)
        kept = [raw for raw in page.tools if self._learn(raw)]
        if len(kept) == len(page.tools):
            return result
        return msgspec.json.encode(jsonrpc.object_of(result) | {"tools": jsonrpc.raw(kept)})

    def _learn(self, raw: Raw) -> bool:
        try:
            tool = msgspec.json.decode(raw, type=_Tool)
        except (msgspec.DecodeError, RecursionError):
            return True
        schema = headers.schema_of(tool.input_schema)
        if schema.fault is not None:
            _log.warning("tool %r of upstream %r is left out: %s", tool.name, self._upstream, schema.fault)
            return False
        self._remember(tool.name, schema.mirrors)
        return True

    def _remember(self, tool: str, mirrors: Sequence[headers.Mirror]) -> None:
        if len(self._known) >= MAX_TOOLS:
            self._known.clear()
        self._known[tool] = mirrors


def next_cursor(result: bytes) -> str | None:
    """Where a raw result of tools/list goes on."""
    return _page(result).next_cursor


def _page(result: bytes) -> _Page:
    try:
        return msgspec.json.decode(result, type=_Page)
    except (msgspec.DecodeError, RecursionError):
        return _Page()
