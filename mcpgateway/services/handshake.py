"""Answers a client's `initialize` or `server/discover` from what is known of the upstreams, without opening a session where it
can be helped."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from mcpgateway.auth.access import Access, Rights
from mcpgateway.errors import UpstreamError
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import Call, NoChannel
from mcpgateway.protocol.modern import SERVED, SERVER_INFO_META
from mcpgateway.services.capabilities import LISTS, declares
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.forward import Forward
from mcpgateway.services.upstream import Upstream
from mcpgateway.services.views import View
from mcpgateway.upstream.base import GATEWAY_INFO, Welcome

CAPABILITIES = {
    "completions": {},
    "logging": {},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "tools": {"listChanged": True},
}
"""Of the view of all upstreams: any of them may join later and offer any of these."""

HAVE_TASKS = "2025-11-25"
"""The one revision that has tasks in its core."""

TASKS: dict[str, object] = {"cancel": {}, "list": {}, "requests": {"tools": {"call": {}}}}


class Handshake:
    def __init__(self, forward: Forward, access: Access) -> None:
        self._forward = forward
        self._access = access

    async def initialize(self, view: View, conversation: Conversation, call: Call) -> bytes:
        """The raw InitializeResult for a new conversation. Raises UpstreamError where a single upstream cannot be asked."""
        has_tasks = conversation.version == HAVE_TASKS
        if not view.single:
            offered = has_tasks and any(each.welcome is not None and each.offers("tasks") for each in view.upstreams.values())
            return msgspec.json.encode(
                {
                    "protocolVersion": conversation.version,
                    "capabilities": CAPABILITIES | ({"tasks": TASKS} if offered else {}),
                    "serverInfo": Raw(GATEWAY_INFO),
                    "instructions": _instructions(view, self._access.of(conversation.principal)),
                }
            )
        welcome = await self._welcome(view.only, conversation, call)
        carried = {name: value for name, value in welcome.capabilities.items() if name != "tasks" or has_tasks}
        changes = {"protocolVersion": jsonrpc.raw(conversation.version), "capabilities": jsonrpc.raw(carried)}
        return msgspec.json.encode(jsonrpc.object_of(welcome.raw) | changes)

    async def discover(self, view: View, conversation: Conversation, call: Call) -> bytes:
        """The raw DiscoverResult for a modern client, as a modern server gives it. Raises as `initialize` does."""
        if not view.single:
            return _discovered(
                {
                    "capabilities": jsonrpc.raw(CAPABILITIES),
                    "instructions": jsonrpc.raw(_instructions(view, self._access.of(conversation.principal))),
                    "_meta": jsonrpc.raw({SERVER_INFO_META: Raw(GATEWAY_INFO)}),
                }
            )
        welcome = await self._welcome(view.only, conversation, call)
        if welcome.discovered:
            return _discovered(jsonrpc.object_of(welcome.discovered))
        carried = {name: value for name, value in welcome.capabilities.items() if name != "tasks"}
        fields = {"capabilities": jsonrpc.raw(carried), "_meta": jsonrpc.raw({SERVER_INFO_META: welcome.server_info})}
        if welcome.instructions is not None:
            fields["instructions"] = jsonrpc.raw(welcome.instructions)
        return _discovered(fields)

    async def announces(self, view: View, conversation: Conversation, call: Call) -> frozenset[str]:
        """The lists whose changes are announced: 'tools', 'resources', 'prompts'. Raises as `initialize` does."""
        if not view.single:
            return frozenset(LISTS)
        welcome = await self._welcome(view.only, conversation, call)
        return frozenset(kind for kind in LISTS if declares(welcome, kind, "listChanged"))

    async def _welcome(self, upstream: Upstream, conversation: Conversation, call: Call) -> Welcome:
        identity = upstream.identity_of(conversation.principal, call)
        modern = revisions.is_modern(conversation.version)
        welcome = upstream.welcome_of(identity, modern=modern)
        if welcome is None:
            ping = Call("ping", client=conversation, client_headers=call.client_headers)
            await self._forward.send(upstream, conversation, ping, NoChannel())
            welcome = upstream.welcome_of(identity, modern=modern)
        if welcome is None:
            raise UpstreamError(upstream.name, "what it offers was known, and is not any more; try again")
        return welcome


def _discovered(fields: jsonrpc.Params) -> bytes:
    """A DiscoverResult of these fields, as this gateway gives it. Nobody else may keep it: it may differ by caller."""
    fixed = {"resultType": "complete", "supportedVersions": SERVED, "cacheScope": "private"}
    return msgspec.json.encode({"ttlMs": 0} | fields | fixed)


def _instructions(view: View, rights: Rights) -> str:
    """What each server that the caller may use says of its use, under its name."""
    servers = {slug: upstream for slug, upstream in view.upstreams.items() if rights.server(slug)}
    parts = [f"Tools and prompts are named <server>__<name>. Servers: {', '.join(servers) or 'none'}."]
    for slug, upstream in servers.items():
        if upstream.welcome is not None and upstream.welcome.instructions:
            parts.append(f"## {slug}\n{upstream.welcome.instructions}")
    return "\n\n".join(parts)
