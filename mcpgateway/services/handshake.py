"""Answers a client's `initialize` or `server/discover` from what is known of the upstreams, without opening a session where it
can be helped."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from mcpgateway.auth.access import Access
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
            shown = self._shown(view, conversation, call)
            offered = has_tasks and any("tasks" in welcome.capabilities for welcome in shown.values())
            return msgspec.json.encode(
                {
                    "protocolVersion": conversation.version,
                    "capabilities": CAPABILITIES | ({"tasks": TASKS} if offered else {}),
                    "serverInfo": Raw(GATEWAY_INFO),
                    "instructions": _instructions(self._servers(view, conversation), shown),
                }
            )
        welcome = await self._welcome(view.only, conversation, call)
        carried = {name: value for name, value in welcome.capabilities.items() if name != "tasks" or has_tasks}
        changes = {"protocolVersion": jsonrpc.raw(conversation.version), "capabilities": jsonrpc.raw(carried)}
        return msgspec.json.encode(jsonrpc.object_of(welcome.raw) | changes)

    async def discover(self, view: View, conversation: Conversation, call: Call) -> bytes:
        """The raw DiscoverResult for a modern client, as a modern server gives it. Raises as `initialize` does."""
        if not view.single:
            shown = self._shown(view, conversation, call)
            return _discovered(
                {
                    "capabilities": jsonrpc.raw(CAPABILITIES),
                    "instructions": jsonrpc.raw(_instructions(self._servers(view, conversation), shown)),
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

    def _servers(self, view: View, conversation: Conversation) -> list[Upstream]:
        """Those that the caller may use."""
        rights = self._access.of(conversation.principal)
        return [upstream for slug, upstream in view.upstreams.items() if rights.server(slug)]

    def _shown(self, view: View, conversation: Conversation, call: Call) -> dict[str, Welcome]:
        """What each of them said of itself to this caller, as far as that is known."""
        known = {each.slug: each.shown_to(conversation.principal, call) for each in self._servers(view, conversation)}
        return {slug: welcome for slug, welcome in known.items() if welcome is not None}

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


def _instructions(servers: list[Upstream], shown: Mapping[str, Welcome]) -> str:
    """What each server says of its use, under its name."""
    names = ", ".join(upstream.slug for upstream in servers)
    parts = [f"Tools and prompts are named <server>__<name>. Servers: {names or 'none'}."]
    parts += [f"## {slug}\n{welcome.instructions}" for slug, welcome in shown.items() if welcome.instructions]
    return "\n\n".join(parts)
