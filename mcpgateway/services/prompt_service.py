"""Prompts: listing and getting them."""

from __future__ import annotations

from mcpgateway.auth.access import Access
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import Call, Channel
from mcpgateway.services.catalog import PROMPTS, Catalog
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.forward import Forward
from mcpgateway.services.lists import Lists
from mcpgateway.services.upstream import Upstream
from mcpgateway.services.views import View, unknown


class PromptService:
    def __init__(self, forward: Forward, catalog: Catalog, lists: Lists, access: Access) -> None:
        self._access = access
        self._forward = forward
        self._catalog = catalog
        self._lists = lists

    async def list(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of prompts/list."""
        return await self._lists.page(view, conversation, call, PROMPTS)

    async def get(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of prompts/get. Raises InvalidParams for a prompt of nobody's, and what `Forward.send` raises."""
        upstream, own = self.owner(view, conversation, call, jsonrpc.string_of(call.params, "name"))
        call.params = call.params | {"name": jsonrpc.raw(own)}
        return await self._forward.send(upstream, conversation, call, channel)

    def owner(self, view: View, conversation: Conversation, call: Call, name: str) -> tuple[Upstream, str]:
        """The upstream of a prompt, and its own name of it. Raises InvalidParams for what the caller may not use."""
        upstream, own = view.owner_of_name(name, "prompt")
        if not view.single:
            known = self._catalog.known(upstream, conversation, call, PROMPTS)
            own = (known.own_name(upstream.slug, name) if known is not None else None) or own
        if not self._access.of(conversation.principal).prompt(upstream.slug, own):
            self._forward.refused(upstream, conversation, call)
            raise unknown("prompt", name)
        return upstream, own
