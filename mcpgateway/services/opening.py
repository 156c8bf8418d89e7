"""Opens a session for a conversation: what the upstream is told of the client, and what is restored in it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing

import msgspec

from mcpgateway.errors import RpcError
from mcpgateway.pool.session import PooledSession, TransportType
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import Call, NoChannel
from mcpgateway.runtime import Clock
from mcpgateway.services.binding import Binding
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.upstream import Upstream
from mcpgateway.upstream.base import GATEWAY_INFO, Hello, Listener, UpstreamSession
from mcpgateway.upstream.open import Opener

_log = logging.getLogger("mcpgateway.forward")

NOT_FOR_UPSTREAM = frozenset({"tasks"})
"""Client capabilities that the gateway does not carry."""

RESTORE_SECONDS = 10.0

ListenerFor = Callable[[Upstream, Conversation, str], Listener]
"""Says who hears what a session of this upstream, conversation and policy has to say outside calls."""


class Opening:
    """Opens the sessions of one binding; a `leasing.Open`. Always with the credential that was shown last."""

    def __init__(
        self, opener: Opener, clock: Clock, upstream: Upstream, conversation: Conversation, listener_for: ListenerFor | None
    ) -> None:
        self._opener = opener
        self._now = clock.now
        self._upstream = upstream
        self._conversation = conversation
        self._listener_for = listener_for
        self.binding: Binding | None = None

    def __repr__(self) -> str:
        return f"<Opening of {self._upstream.name} for {self._conversation!r}>"

    async def __call__(self) -> PooledSession:
        """A new session, known to the upstream's record, heard, and told what the client told earlier ones."""
        binding, upstream, conversation = self.binding, self._upstream, self._conversation
        if binding is None:
            raise RuntimeError("an opening belongs to a binding")
        credential = binding.credential
        began = self._now()
        session = await self._opener.open(upstream.target, hello_of(conversation, credential.identity), credential.lines)
        upstream.handshake_ms = (self._now() - began) * 1000
        transport = self._opener.transport_of(upstream.target)
        modern = revisions.is_modern(conversation.version)
        session.welcome = upstream.learned(
            session.welcome, credential.identity, modern=modern, stateful=session.stateful, transport=transport
        )
        if self._listener_for is not None:
            session.listener = self._listener_for(upstream, conversation, binding.policy)
        try:
            await self._restore(session, binding)
        except BaseException:
            await session.aclose()
            raise
        kind = TransportType(transport) if transport in set(TransportType) else TransportType.STREAMABLE_HTTP
        return PooledSession(session, aclosing(session), upstream.target.url, credential.identity, kind)

    async def _restore(self, session: UpstreamSession, binding: Binding) -> None:
        """Give a new session what the client told earlier ones: its log level and its subscriptions."""
        for method, params in self._steps(session, binding):
            call = Call(method, params, client=self._conversation, headers=binding.credential.lines)
            call.timeout_seconds = RESTORE_SECONDS
            try:
                await session.request(call, NoChannel())
            except RpcError as error:
                _log.info("%s on a new session of %r: error %d", method, self._upstream.name, error.code)

    def _steps(self, session: UpstreamSession, binding: Binding) -> list[tuple[str, jsonrpc.Params]]:
        steps: list[tuple[str, jsonrpc.Params]] = []
        conversation = self._conversation
        if conversation.log_level is not None and "logging" in session.welcome.capabilities:
            steps.append(("logging/setLevel", {"level": jsonrpc.raw(conversation.log_level)}))
        if binding.kept:
            uris = [uri for slug, uri in conversation.subscriptions if slug == self._upstream.slug]
            steps += [("resources/subscribe", {"uri": jsonrpc.raw(uri)}) for uri in uris]
        return steps


def hello_of(conversation: Conversation, identity: str) -> Hello:
    """What an upstream is told of the client when a session is opened for it, shown as `identity`."""
    capabilities = jsonrpc.object_of(conversation.capabilities)
    carried = {name: value for name, value in capabilities.items() if name not in NOT_FOR_UPSTREAM}
    info = conversation.client_info
    modern = revisions.is_modern(conversation.version)
    return Hello(msgspec.json.encode(carried), info if info != b"{}" else GATEWAY_INFO, modern, identity)
