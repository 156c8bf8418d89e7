"""Completion, and the log level: what belongs to a conversation rather than to one kind of thing."""

from __future__ import annotations

import logging

import msgspec

from mcpgateway.errors import GatewayError, InvalidParams
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import Call, Channel
from mcpgateway.protocol.levels import LEVELS
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.forward import Forward
from mcpgateway.services.prompt_service import PromptService
from mcpgateway.services.resource_service import ResourceService
from mcpgateway.services.views import View

_log = logging.getLogger("mcpgateway.utility")


class UtilityService:
    def __init__(self, forward: Forward, prompts: PromptService, resources: ResourceService) -> None:
        self._forward = forward
        self._prompts = prompts
        self._resources = resources

    async def complete(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of completion/complete, from whoever has the prompt or the resource that it is about."""
        ref = jsonrpc.object_of(call.params.get("ref", b"null"))
        kind = jsonrpc.string_of(ref, "type")
        if kind == "ref/prompt":
            upstream, own = self._prompts.owner(view, conversation, call, jsonrpc.string_of(ref, "name"))
            ref["name"] = jsonrpc.raw(own)
        elif kind == "ref/resource":
            upstream, own = await self._resources.owner(view, conversation, call, jsonrpc.string_of(ref, "uri"))
            ref["uri"] = jsonrpc.raw(own)
        else:
            raise InvalidParams(f"params.ref.type must be 'ref/prompt' or 'ref/resource', not {kind[:100]!r}")
        call.params = call.params | {"ref": jsonrpc.raw(ref)}
        return await self._forward.send(upstream, conversation, call, channel)

    async def set_level(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of logging/setLevel. Sessions that are open are told now, later ones when they are opened."""
        level = jsonrpc.string_of(call.params, "level")
        if level not in LEVELS:
            raise InvalidParams(f"params.level must be one of {', '.join(LEVELS)}, not {level[:100]!r}")
        conversation.log_level = level
        if view.single:
            return await self._forward.send(view.only, conversation, call, channel)
        for slug in {binding.upstream.slug for binding in conversation.bindings.values()}:
            upstream = view.upstreams.get(slug)
            if upstream is not None and upstream.offers_to(conversation.principal, call, "logging"):
                params = {"level": jsonrpc.raw(level)}
                told = Call(call.method, params, client=call.client, client_headers=call.client_headers)
                try:
                    await self._forward.send(upstream, conversation, told, channel)
                except GatewayError as error:
                    _log.info("the log level was not taken: %s", error)
        return msgspec.json.encode({})
