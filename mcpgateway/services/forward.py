"""The one path of a call: credential → lease → request → outcome.

Tool, resource and prompt calls, lists, completion and what the gateway asks for itself all come through here, with the same
caller, credential, time-out and TLS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing

import msgspec

from mcpgateway import runtime
from mcpgateway.auth.credentials import Credential
from mcpgateway.errors import CircuitOpen, ConnectionLost, RpcError, SessionLost, UpstreamError
from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.session import PooledSession, TransportType
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import Call, Channel, NoChannel
from mcpgateway.runtime import Clock
from mcpgateway.services.binding import Binding
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.leasing import SessionPool, Want
from mcpgateway.services.upstream import Upstream
from mcpgateway.upstream.base import GATEWAY_INFO, Hello, Listener, UpstreamSession
from mcpgateway.upstream.open import Opener

_log = logging.getLogger("mcpgateway.forward")

PRINCIPAL_IDLE_SECONDS = 1800.0
"""How long a session that a principal's sessionless calls share is kept without a call."""

SAFE_METHODS = frozenset(
    {
        "completion/complete",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "tools/list",
    }
)
"""Methods that change nothing, so that they may be repeated even where the first attempt may have run."""

NOT_FOR_UPSTREAM = frozenset({"tasks"})
"""Client capabilities that the gateway does not carry."""

ListenerFor = Callable[[Upstream, Conversation, str], Listener]
MayRepeat = Callable[[Upstream, Conversation, Call], bool]


def _never(upstream: Upstream, conversation: Conversation, call: Call) -> bool:
    return False


class Forward:
    """Sends calls to upstreams on the sessions that belong to their conversation.

    `listener_for` says who hears what a new session has to say outside calls; `may_repeat` whether a tool call is declared
    safe to repeat.
    """

    def __init__(self, pool: SessionPool, opener: Opener, terms: Terms, clock: Clock | None = None) -> None:
        self._pool = pool
        self._opener = opener
        self._terms = terms
        self._now = (clock or Clock()).now
        self.listener_for: ListenerFor | None = None
        self.may_repeat: MayRepeat = _never

    def __repr__(self) -> str:
        return f"<Forward over {self._pool!r}>"

    async def send(self, upstream: Upstream, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of `call` at `upstream`.

        A call that was refused before it ran, and one that is safe to repeat, is repeated once on a new session. Raises
        RpcError with the upstream's own error, PoolError, UpstreamError.
        """
        began = self._now()
        credential = upstream.credentials.of(call.client_headers)
        call.headers = credential.lines
        call.timeout_seconds = upstream.timeout_seconds
        binding = conversation.bindings.get(upstream.slug)
        if binding is None or not binding.serves(upstream, credential.identity):
            binding = self._bind(upstream, conversation, credential)
        if upstream.breaker.is_open:
            self._pass_breaker(upstream)
        try:
            result = await self._with_repeat(upstream, conversation, binding, call, channel)
        except BaseException as error:
            upstream.figures.errors[type(error).__name__] += 1
            upstream.breaker.gave_up()
            raise
        finally:
            upstream.figures.count(self._now() - began)
        if upstream.breaker.is_open:
            upstream.breaker.succeeded()
        return result

    async def _with_repeat(
        self, upstream: Upstream, conversation: Conversation, binding: Binding, call: Call, channel: Channel
    ) -> bytes:
        try:
            return await self._attempt(upstream, binding, call, channel)
        except (SessionLost, ConnectionLost) as error:
            if not self._repeatable(upstream, conversation, call, error):
                raise
            _log.info("repeating %r: %s", call, error)
        return await self._attempt(upstream, binding, call, channel)

    async def _attempt(self, upstream: Upstream, binding: Binding, call: Call, channel: Channel) -> bytes:
        lease = self._pool.warm(binding.want.key)
        if lease is None:
            lease = await self._pool.lease(binding.want)
        try:
            result: bytes = await lease.session.request(call, channel)
        except BaseException as error:
            self._pool.give_back(lease, error)
            raise
        self._pool.give_back(lease)
        return result

    def _pass_breaker(self, upstream: Upstream) -> None:
        pause = upstream.breaker.refuses_for(self._now())
        if pause > 0:
            raise CircuitOpen(
                f"upstream {upstream.name!r} failed repeatedly ({upstream.reason}) and is left alone for another "
                f"{pause:.1f} s; try again after that",
                retry_after_seconds=pause,
            )

    def _repeatable(self, upstream: Upstream, conversation: Conversation, call: Call, error: UpstreamError) -> bool:
        if error.refused_before_dispatch or call.method in SAFE_METHODS:
            return True
        return self.may_repeat(upstream, conversation, call)

    def _bind(self, upstream: Upstream, conversation: Conversation, credential: Credential) -> Binding:
        old = conversation.bindings.get(upstream.slug)
        policy = upstream.policy
        key = PoolKey(
            user=conversation.user,
            url=upstream.target.url or f"stdio:{upstream.slug}",
            identity=credential.identity,
            transport=upstream.target.transport,
            upstream=upstream.slug,
            partition=_partition(policy, conversation),
            capabilities=conversation.capabilities_print,
        )
        opening = _Opening(self, upstream, conversation, credential)
        binding = Binding(upstream, credential.identity, Want(key, self._terms_of(policy), opening))
        opening.binding = binding
        conversation.bindings[upstream.slug] = binding
        if old is not None and old.own and old.want.key != key:
            self._pool.end([old.want.key])
        return binding

    def _terms_of(self, policy: str) -> Terms:
        """How the sessions of a policy are lent. Those that hold a conversation's state do not age."""
        if policy == "bound":
            return Terms(exclusive=False)
        if policy == "principal":
            return Terms(exclusive=False, max_idle_seconds=PRINCIPAL_IDLE_SECONDS)
        if policy == "stateless":
            return self._terms._replace(exclusive=False, probe_after_seconds=float("inf"))
        return self._terms._replace(single_use=policy == "single_use")

    def end(self, conversation: Conversation) -> None:
        """The conversation is over: the sessions that were its alone are closed."""
        self._pool.end(binding.want.key for binding in conversation.bindings.values() if binding.own)
        conversation.bindings.clear()

    def tell(self, conversation: Conversation, method: str) -> None:
        """Pass a client's notification on to the sessions that are its alone. Nobody waits for it."""
        for binding in conversation.bindings.values():
            if binding.own and binding.session is not None and not binding.session.closed:
                runtime.spawn(_notify(binding.session, method), f"pass on {method}")

    async def close(self) -> None:
        """Close the pool that this forward's calls use."""
        await self._pool.close_all()

    def listen(self, conversation: Conversation) -> None:
        """The conversation's client began to listen: so do its own sessions."""
        for binding in conversation.bindings.values():
            if binding.own and binding.session is not None and not binding.session.closed:
                binding.session.listen(binding.session.own_headers)

    def stop_listening(self, conversation: Conversation) -> None:
        """The conversation's client listens no more."""
        for binding in conversation.bindings.values():
            if binding.own and binding.session is not None:
                binding.session.stop_listening()


class _Opening:
    """Opens a session for one binding; an `Open`."""

    def __init__(self, forward: Forward, upstream: Upstream, conversation: Conversation, credential: Credential) -> None:
        self._forward = forward
        self._upstream = upstream
        self._conversation = conversation
        self._credential = credential
        self.binding: Binding | None = None

    async def __call__(self) -> PooledSession:
        upstream, conversation, lines = self._upstream, self._conversation, self._credential.lines
        opener, now = self._forward._opener, self._forward._now
        began = now()
        session = await opener.open(upstream.target, hello_of(conversation), lines)
        upstream.handshake_ms = (now() - began) * 1000
        transport = opener.transport_of(upstream.target)
        upstream.learned(session.welcome, self._credential.identity, stateful=session.stateful, transport=transport)
        if self.binding is not None:
            self.binding.session = session
        if self._forward.listener_for is not None:
            session.listener = self._forward.listener_for(upstream, conversation, upstream.policy)
        try:
            await self._restore(session)
        except BaseException:
            await session.aclose()
            raise
        if conversation.listening and self.binding is not None and self.binding.own:
            session.listen(lines)
        kind = TransportType(transport) if transport in set(TransportType) else TransportType.STREAMABLE_HTTP
        return PooledSession(session, aclosing(session), upstream.target.url, self._credential.identity, kind)

    async def _restore(self, session: UpstreamSession) -> None:
        """Give a new session what the client told earlier ones: its log level and its subscriptions."""
        conversation, slug = self._conversation, self._upstream.slug
        steps: list[tuple[str, jsonrpc.Params]] = []
        if conversation.log_level is not None and self._upstream.offers("logging"):
            steps.append(("logging/setLevel", {"level": jsonrpc.raw(conversation.log_level)}))
        if self.binding is not None and self.binding.own:
            uris = [uri for name, uri in conversation.subscriptions if name == slug]
            steps += [("resources/subscribe", {"uri": jsonrpc.raw(uri)}) for uri in uris]
        for method, params in steps:
            call = Call(method, params, client=conversation, headers=self._credential.lines, timeout_seconds=10.0)
            try:
                await session.request(call, NoChannel())
            except RpcError as error:
                _log.info("%s on a new session of %r: %s", method, slug, error)


async def _notify(session: UpstreamSession, method: str) -> None:
    try:
        await session.notify(method, None, session.own_headers)
    except UpstreamError as error:
        _log.info("%s was not passed on: %s", method, error)


def hello_of(conversation: Conversation) -> Hello:
    """What an upstream is told of the client when a session is opened for it."""
    capabilities = jsonrpc.object_of(conversation.capabilities)
    carried = {name: value for name, value in capabilities.items() if name not in NOT_FOR_UPSTREAM}
    info = conversation.client_info
    return Hello(msgspec.json.encode(carried), info if info != b"{}" else GATEWAY_INFO)


def _partition(policy: str, conversation: Conversation) -> str:
    if policy == "bound" and conversation.id:
        return f"bound:{conversation.id}"
    return "principal" if policy == "bound" else policy
