"""Tools: listing and calling them."""

from __future__ import annotations

from collections.abc import Awaitable

import msgspec
from msgspec import Raw

from mcpgateway.auth.access import Access
from mcpgateway.protocol import headers, jsonrpc
from mcpgateway.protocol.call import Call, Channel
from mcpgateway.services.catalog import TOOLS, Catalog
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.forward import Forward
from mcpgateway.services.lists import Lists
from mcpgateway.services.task_service import TaskService
from mcpgateway.services.upstream import Upstream
from mcpgateway.services.views import View, unknown

ANNOTATION = headers.ANNOTATION.encode()


class ToolService:
    def __init__(self, forward: Forward, catalog: Catalog, lists: Lists, access: Access, tasks: TaskService) -> None:
        self._access = access
        self._forward = forward
        self._catalog = catalog
        self._lists = lists
        self._tasks = tasks

    async def list(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of tools/list."""
        return await self._lists.page(view, conversation, call, TOOLS)

    def call(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> Awaitable[bytes]:
        """The raw result of tools/call. Raises at once InvalidParams for a tool of nobody's; and what `Forward.send` raises."""
        upstream, own = self._owner(view, conversation, call)
        if not view.single:
            call.params = call.params | {"name": jsonrpc.raw(own)}
        result = self._forward.send(upstream, conversation, call, channel)
        return self._noted(upstream, conversation, result) if self._tasks.may_begin(conversation, call) else result

    async def _noted(self, upstream: Upstream, conversation: Conversation, answer: Awaitable[bytes]) -> bytes:
        result = await answer
        self._tasks.note(upstream, conversation, result)
        return result

    def _owner(self, view: View, conversation: Conversation, call: Call) -> tuple[Upstream, str]:
        """The upstream of the called tool, and its own name of it. Raises InvalidParams for what the caller may not use."""
        name = jsonrpc.string_of(call.params, "name")
        upstream, own = view.owner_of_name(name, "tool")
        if not view.single:
            # A name that was too long is exposed shortened, so the catalogue knows better than the name's second half.
            known = self._catalog.known(upstream, conversation, call, TOOLS)
            own = (known.own_name(upstream.slug, name) if known is not None else None) or own
        if not self._access.of(conversation.principal).tool(upstream.slug, own):
            self._forward.refused(upstream, conversation, call)
            raise unknown("tool", name)
        return upstream, own

    async def mirrored_schema(self, view: View, conversation: Conversation, call: Call) -> Raw | None:
        """The raw input schema of the called tool, if it says that arguments are repeated in headers.

        None where there is no such tool in the list, or no list in memory: then there is nothing to check the headers by.
        Raises InvalidParams for what the caller may not use.
        """
        upstream, own = self._owner(view, conversation, call)
        # The list is not waited for: a server that is slow to list must not hold up the calls of its tools.
        listing = self._catalog.at_hand(upstream, conversation, call, TOOLS)
        item = listing.by_id.get(own) if listing is not None else None
        return jsonrpc.object_of(item.raw).get("inputSchema") if item is not None and ANNOTATION in item.raw else None

    def may_repeat(self, upstream: Upstream, conversation: Conversation, call: Call) -> bool:
        """Whether a tool call may be repeated though it may have run: its tool is declared read-only or idempotent."""
        if call.method != "tools/call":
            return False
        listing = self._catalog.known(upstream, conversation, call, TOOLS)
        item = listing.by_id.get(jsonrpc.string_of(call.params, "name")) if listing is not None else None
        if item is None:
            return False
        annotations = jsonrpc.object_of(item.raw).get("annotations")
        hints = msgspec.json.decode(annotations) if annotations is not None else None
        return isinstance(hints, dict) and True in (hints.get("readOnlyHint"), hints.get("idempotentHint"))
