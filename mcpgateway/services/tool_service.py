"""Tools: listing and calling them."""

from __future__ import annotations

import msgspec

from mcpgateway.auth.access import Access
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import Call, Channel
from mcpgateway.services.catalog import TOOLS, Catalog
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.forward import Forward
from mcpgateway.services.lists import Lists
from mcpgateway.services.task_service import TaskService
from mcpgateway.services.upstream import Upstream
from mcpgateway.services.views import View, unknown


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

    async def call(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of tools/call. Raises InvalidParams for a tool of nobody's, and what `Forward.send` raises."""
        name = jsonrpc.string_of(call.params, "name")
        upstream, own = view.owner_of_name(name, "tool")
        if not view.single:
            # A name that was too long is exposed shortened, so the catalogue knows better than the name's second half.
            known = self._catalog.known(upstream, conversation, call, TOOLS)
            own = (known.own_name(upstream.slug, name) if known is not None else None) or own
            call.params = call.params | {"name": jsonrpc.raw(own)}
        if not self._access.of(conversation.principal).tool(upstream.slug, own):
            raise unknown("tool", name)
        result = await self._forward.send(upstream, conversation, call, channel)
        self._tasks.note(upstream, conversation, call, result)
        return result

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
