"""Who hears what upstreams say outside calls. Attributed by upstream and conversation, never by URL."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from mcpgateway.auth.access import Access
from mcpgateway.errors import InvalidParams, RpcError
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import cannot_ask
from mcpgateway.services.catalog import Catalog
from mcpgateway.services.conversation import GATEWAY_USER, Conversation
from mcpgateway.services.upstream import Upstream
from mcpgateway.upstream.base import Listener
from mcpgateway.upstream.subscriptions import covers

_log = logging.getLogger("mcpgateway.announcements")

LIST_CHANGES = {
    "notifications/tools/list_changed": "tools",
    "notifications/resources/list_changed": "resources",
    "notifications/prompts/list_changed": "prompts",
}


class Announcer:
    """Knows every conversation that is open, and gives each new upstream session its listener."""

    def __init__(self, catalog: Catalog, access: Access) -> None:
        self._catalog = catalog
        self._access = access
        self.conversations: set[Conversation] = set()

    def __repr__(self) -> str:
        return f"<Announcer to {len(self.conversations)} conversations>"

    def listener(self, upstream: Upstream, conversation: Conversation, policy: str) -> Listener:
        """Who hears a session that is opened now."""
        if conversation.user == GATEWAY_USER:
            return _Watching(self, upstream)
        if policy == "bound" and conversation.id:
            return _OfConversation(self, upstream, conversation)
        return _OfUser(self, upstream, conversation.user)

    def forget(self, conversation: Conversation) -> None:
        """A conversation is over."""
        self.conversations.discard(conversation)
        self._catalog.forget(conversation)

    def own_lists_changed(self, upstream: Upstream, conversation: Conversation, capability: str) -> None:
        """A conversation's own session announced a change: it may be that conversation's alone."""
        self._catalog.changed(upstream.slug, capability, conversation)
        conversation.lists_changed(capability)

    def lists_changed(self, upstream: Upstream, capability: str) -> None:
        """An upstream's list changed for everybody."""
        self._catalog.changed(upstream.slug, capability)
        for conversation in self.conversations:
            if self._sees(conversation, upstream):
                conversation.lists_changed(capability)

    def came_or_went(self, upstream: Upstream) -> None:
        """An upstream came, came back or leaves: whoever sees it lists again."""
        for conversation in self.conversations:
            if self._sees(conversation, upstream):
                for capability in LIST_CHANGES.values():
                    if upstream.offers(capability):
                        conversation.lists_changed(capability)

    def _sees(self, conversation: Conversation, upstream: Upstream) -> bool:
        return conversation.sees(upstream.slug) and self._access.of(conversation.principal).server(upstream.slug)

    def tell_user(self, upstream: Upstream, user: str, method: str, params: bytes) -> None:
        """Something was said in a session that a user's conversations share, and that is for any of them."""
        for conversation in self.conversations:
            if conversation.user == user and conversation.sees(upstream.slug):
                conversation.push(method, params)

    def updated(self, upstream: Upstream, user: str, params: bytes) -> None:
        """A resource changed: the user's conversations that subscribed to it are told."""
        for conversation in self.conversations:
            if conversation.user == user:
                self.tell_updated(upstream, conversation, params)

    def tell_updated(self, upstream: Upstream, conversation: Conversation, params: bytes) -> None:
        """Tell one conversation that a resource that it may use changed, as it calls that. What names no resource is left
        out: one faulty notification is no reason to end a session."""
        try:
            fields = jsonrpc.object_of(params)
            uri = jsonrpc.string_of(fields, "uri")
        except InvalidParams as error:
            _log.info("upstream %r said that a resource changed, but not which: %s", upstream.name, error)
            return
        told = told_as(conversation.subscriptions, upstream.slug, uri)
        if told is not None and self._access.of(conversation.principal).resource(upstream.slug, uri):
            changed = params if told == uri else msgspec.json.encode(fields | {"uri": jsonrpc.raw(told)})
            conversation.push("notifications/resources/updated", changed)


def told_as(subscriptions: Mapping[tuple[str, str], str], slug: str, uri: str) -> str | None:
    """What the maker of these subscriptions calls an upstream's resource `uri`; None where none of them is for it.

    Servers may tell of a part of what was subscribed to. What clients put before a server's own URI they find before that too.
    """
    if (slug, uri) in subscriptions:
        return subscriptions[slug, uri]
    around = [own for upstream, own in subscriptions if upstream == slug and covers(own, uri)]
    if not around:
        return None
    own = max(around, key=len)
    return subscriptions[slug, own].removesuffix(own) + uri


class _OfConversation:
    """Hears a session that belongs to one conversation: all it says is for that client."""

    def __init__(self, announcer: Announcer, upstream: Upstream, conversation: Conversation) -> None:
        self._announcer = announcer
        self._upstream = upstream
        self._conversation = conversation

    def notified(self, method: str, params: bytes) -> None:
        capability = LIST_CHANGES.get(method)
        if capability is not None:
            self._announcer.own_lists_changed(self._upstream, self._conversation, capability)
        elif method == "notifications/resources/updated":
            self._announcer.tell_updated(self._upstream, self._conversation, params)
        else:
            self._conversation.push(method, params)

    async def asked(self, method: str, params: bytes) -> bytes:
        return await self._conversation.ask(method, params)


class _OfUser:
    """Hears a session that one user's calls share: nothing in it can be asked of, or logged to, one conversation."""

    def __init__(self, announcer: Announcer, upstream: Upstream, user: str) -> None:
        self._announcer = announcer
        self._upstream = upstream
        self._user = user

    def notified(self, method: str, params: bytes) -> None:
        capability = LIST_CHANGES.get(method)
        if capability is not None:
            self._announcer.lists_changed(self._upstream, capability)
        elif method == "notifications/resources/updated":
            self._announcer.updated(self._upstream, self._user, params)
        elif method == "notifications/tasks/status":
            self._announcer.tell_user(self._upstream, self._user, method, params)

    async def asked(self, method: str, params: bytes) -> bytes:
        raise cannot_ask(method)


class _Watching:
    """Hears the session that the gateway itself keeps: changes of lists, for everybody."""

    def __init__(self, announcer: Announcer, upstream: Upstream) -> None:
        self._announcer = announcer
        self._upstream = upstream

    def notified(self, method: str, params: bytes) -> None:
        capability = LIST_CHANGES.get(method)
        if capability is not None:
            self._announcer.lists_changed(self._upstream, capability)

    async def asked(self, method: str, params: bytes) -> bytes:
        if method == "roots/list":
            return b'{"roots":[]}'
        raise RpcError.of(-32601, "the gateway itself answers no questions")
