"""The one path of a call: credential → lease → request → outcome.

Tool, resource and prompt calls, lists, completion and what the gateway asks for itself all come through here, with the same
caller, credential, time-out and TLS.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import msgspec

from mcpgateway import runtime
from mcpgateway.auth.credentials import Credential
from mcpgateway.errors import (
    AuthRefused,
    CircuitOpen,
    ConnectionLost,
    Forbidden,
    SessionLost,
    StateLost,
    UpstreamError,
)
from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.session import Lease
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import Call, Channel, NoChannel
from mcpgateway.runtime import Clock
from mcpgateway.services.audit import Audit, NullAudit
from mcpgateway.services.binding import OF_ONE_STATE, Binding
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.hearing import Hearing
from mcpgateway.services.leasing import SessionPool, Want
from mcpgateway.services.opening import ListenerFor, Opening
from mcpgateway.services.upstream import Upstream
from mcpgateway.upstream.base import UpstreamSession
from mcpgateway.upstream.open import Opener

_log = logging.getLogger("mcpgateway.forward")

PRINCIPAL_IDLE_SECONDS = 1800.0
"""How long a session that a principal's sessionless calls share is kept without a call."""

REMEMBERED_BINDINGS = 1000
"""Per conversation. Only a conversation key, which callers choose, can make so many."""

SAFE_METHODS = frozenset(
    {
        "completion/complete",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "tasks/get",
        "tasks/list",
        "tasks/result",
        "tools/list",
    }
)
"""Methods that change nothing, so that they may be repeated even where the first attempt may have run."""

SESSION_META = "mcpgateway/session"
"""The `_meta` key under which a result says that the session it ran in is a new one."""

MayRepeat = Callable[[Upstream, Conversation, Call], bool]


def _never(upstream: Upstream, conversation: Conversation, call: Call) -> bool:
    return False


class Forward:
    """Sends calls to upstreams on the sessions that belong to their conversation.

    `listener_for` says who hears what a new session has to say outside calls; `may_repeat` whether a tool call is declared
    safe to repeat; `audit` is told of every call; `keeps_sessions` is false where each call has a session of its own.
    """

    def __init__(
        self,
        pool: SessionPool,
        opener: Opener,
        terms: Terms,
        *,
        listener_for: ListenerFor | None = None,
        audit: Audit | None = None,
        keeps_sessions: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self._pool = pool
        self._opener = opener
        self._terms = terms
        self._clock = clock or Clock()
        self._now = self._clock.now
        self._audit = audit or NullAudit()
        self._keeps_sessions = keeps_sessions
        self._hearing = Hearing()
        self.listener_for = listener_for
        self.may_repeat: MayRepeat = _never

    def __repr__(self) -> str:
        return f"<Forward over {self._pool!r}>"

    async def send(self, upstream: Upstream, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of `call` at `upstream`.

        A call that was refused before it ran, and one that is safe to repeat, is repeated: once after each kind of trouble.
        Raises RpcError with the upstream's own error, PoolError, UpstreamError, StateLost where the upstream is to say so
        instead of going on.
        """
        began = self._now()
        failure: BaseException | None = None
        on_trial = False
        try:
            if upstream.breaker.is_open:
                self._pass_breaker(upstream)
                on_trial = True
            try:
                result = await self._attempt(upstream, conversation, call, channel)
            except (AuthRefused, SessionLost, ConnectionLost) as error:
                result = await self._repeat(error, upstream, conversation, call, channel)
        except BaseException as error:
            failure = error
            upstream.figures.errors[type(error).__name__] += 1
            if on_trial:
                upstream.breaker.gave_up()
            raise
        finally:
            seconds = self._now() - began
            upstream.figures.count(seconds)
            self._audit.record(upstream.name, conversation, call, failure, seconds)
            failure = None  # it knows this frame: they would keep each other, and the call, until garbage is collected
        if upstream.breaker.is_open:
            upstream.breaker.succeeded()
        return result

    def refused(self, upstream: Upstream, conversation: Conversation, call: Call) -> None:
        """Record that a caller asked for what it may not use."""
        self._audit.record(upstream.name, conversation, call, Forbidden("not for this caller"), 0.0)

    async def _repeat(
        self, error: UpstreamError, upstream: Upstream, conversation: Conversation, call: Call, channel: Channel
    ) -> bytes:
        """The call ended with `error`: send it again where it may be.

        Once after each kind of trouble, for one may follow from the other: a server that breaks off as it restarts has also
        forgotten its sessions, and a repeat that it refused for that has not run.
        """
        mended: tuple[type[UpstreamError], ...] = ()
        while type(error) not in mended and self._repeatable(upstream, conversation, call, error):
            mended = (*mended, type(error))
            _log.info("repeating %r: %s", call, error)
            try:
                return await self._attempt(upstream, conversation, call, channel)
            except (AuthRefused, SessionLost, ConnectionLost) as another:
                error = another
        try:
            raise error
        finally:
            del error  # as in `send`

    async def _attempt(self, upstream: Upstream, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        # Anew each time: what was refused is renewed, and the configuration may have changed meanwhile.
        call.timeout_seconds = upstream.timeout_seconds
        slot = upstream.slot_of(conversation.id, call)
        binding = conversation.bindings.get(slot)
        if binding is None or not binding.lasts(upstream):
            binding = await self._bound(slot, upstream, conversation, call)
        credential = binding.credential
        call.headers = credential.lines if call.trace is None else credential.lines + call.trace.lines()
        lease = self._pool.warm(binding.want) or await self._lease(upstream, conversation, binding, call)
        try:
            if lease.session is not binding.session:
                self._move(conversation, binding, lease.session)
            if conversation.may_be_asked:
                await self._hear(conversation, binding, lease.session)
            call.answerer = lease.session.welcome
            if call.log_level is not None and not conversation.id:
                await self._hearing.from_level(lease.session, call)
            result: bytes = await self._request(lease.session, call, channel)
        except AuthRefused as error:
            _judge(error, upstream, conversation, credential)
            # A credential that was renewed in time is no fault of the session: what is in it stays.
            self._pool.give_back(lease, None if error.refreshable else error)
            raise
        except BaseException as error:
            self._pool.give_back(lease, error)
            raise
        self._pool.give_back(lease)
        return self._say_renewed(binding, result, channel) if binding.renewed else result

    async def _lease(self, upstream: Upstream, conversation: Conversation, binding: Binding, call: Call) -> Lease:
        """A session that is not warm: opened, or waited for. A credential may be refused here already."""
        try:
            return await self._pool.lease(binding.want)
        except AuthRefused as error:
            _judge(error, upstream, conversation, binding.credential)
            raise

    def _request(self, session: UpstreamSession, call: Call, channel: Channel) -> Awaitable[bytes]:
        return session.request(call, channel)

    def _move(self, conversation: Conversation, binding: Binding, session: UpstreamSession) -> None:
        """The conversation goes on in this session now. Raises StateLost where it is to begin anew instead."""
        if not binding.use(session):
            self._lost(binding.upstream, binding)
        if conversation.listening and binding.kept:
            self._hearing.begin(session, conversation)

    async def _hear(self, conversation: Conversation, binding: Binding, session: UpstreamSession) -> None:
        """See that a server is heard that asks outside its calls' own streams, as some do in the middle of a call."""
        if binding.kept and not revisions.is_modern(session.welcome.protocol_version):
            self._hearing.begin(session, conversation)
            await session.hears()

    @staticmethod
    def _lost(upstream: Upstream, binding: Binding) -> None:
        """The session is not the one that earlier calls left their state in."""
        if upstream.on_session_loss == "end":
            binding.renewed = False
            raise StateLost(f"upstream {upstream.name!r} lost this session's state: send initialize to begin a new session")

    @staticmethod
    def _say_renewed(binding: Binding, result: bytes, channel: Channel) -> bytes:
        """Tell the client, once, that state was lost: by a log message and in the result's `_meta`."""
        if isinstance(channel, NoChannel):
            return result  # asked by the gateway itself; the client's next call will hear of it
        binding.renewed = False
        name = binding.upstream.name
        text = f"upstream {name!r} lost the session; the call ran in a new one, without the state that earlier calls left"
        data = {"level": "warning", "logger": "mcpgateway", "data": {"upstream": name, "message": text}}
        channel.notify("notifications/message", msgspec.json.encode(data))
        fields = jsonrpc.object_of(result)
        meta = jsonrpc.object_of(fields["_meta"]) if "_meta" in fields else {}
        meta[SESSION_META] = jsonrpc.raw({"renewed": True, "upstream": name})
        return msgspec.json.encode(fields | {"_meta": jsonrpc.raw(meta)})

    def _pass_breaker(self, upstream: Upstream) -> None:
        pause = upstream.breaker.refuses_for(self._now())
        if pause > 0:
            raise CircuitOpen(
                f"upstream {upstream.name!r} failed repeatedly ({upstream.reason}) and is left alone for another "
                f"{pause:.1f} s; try again after that",
                retry_after_seconds=pause,
            )

    def _repeatable(self, upstream: Upstream, conversation: Conversation, call: Call, error: UpstreamError) -> bool:
        if isinstance(error, AuthRefused):
            return error.refreshable
        if error.refused_before_dispatch or call.method in SAFE_METHODS:
            return True
        return self.may_repeat(upstream, conversation, call)

    async def _bound(self, slot: str, upstream: Upstream, conversation: Conversation, call: Call) -> Binding:
        """Where the call goes, with the caller's credential: as its last one, unless something of that has changed since."""
        credential = upstream.credentials.ready(conversation.principal, call.client_headers)
        if credential is None:
            credential = await upstream.credentials.obtain(conversation.principal, call.client_headers)
        binding = conversation.bindings.get(slot)
        generation = 0 if upstream.config.tls is None else self._opener.tls_generation(upstream.name, upstream.config.tls)
        if binding is None or not binding.serves(upstream, credential.identity, generation):
            binding = self._bind(slot, upstream, conversation, credential, generation)
        binding.show(credential, upstream)
        return binding

    def _bind(
        self, slot: str, upstream: Upstream, conversation: Conversation, credential: Credential, generation: int
    ) -> Binding:
        old = conversation.bindings.pop(slot, None)
        key = PoolKey(
            user=conversation.user,
            url=upstream.target.url or f"stdio:{upstream.slug}",
            identity=f"{credential.identity}.{generation}" if generation else credential.identity,
            transport=upstream.target.transport,
            upstream=upstream.slug,
            partition=_partition(upstream.policy, conversation, slot[len(upstream.slug) :]),
            capabilities=conversation.capabilities_print,
        )
        opening = Opening(self._opener, self._clock, upstream, conversation, self.listener_for)
        want = Want(key, self._terms_of(upstream, conversation), opening)
        binding = opening.binding = Binding(upstream, credential, generation, want, self._keeps_sessions)
        if old is not None:
            binding.succeed(old)
            if old.own and old.want.key != key:
                self._pool.end([old.want.key])
        conversation.bindings[slot] = binding
        if len(conversation.bindings) > REMEMBERED_BINDINGS:
            del conversation.bindings[next(iter(conversation.bindings))]
        return binding

    def _terms_of(self, upstream: Upstream, conversation: Conversation) -> Terms:
        """How the sessions of an upstream are lent. Those that hold a conversation's state do not age."""
        policy = upstream.policy
        if policy == "bound" and conversation.id:
            return Terms(exclusive=False)
        if policy in OF_ONE_STATE:
            return Terms(exclusive=False, max_idle_seconds=PRINCIPAL_IDLE_SECONDS)
        if policy == "stateless":
            return self._terms._replace(exclusive=False, probe_after_seconds=float("inf"))
        if policy == "single_use":
            return self._terms._replace(single_use=True, spares=upstream.config.spares)
        return self._terms

    def end(self, conversation: Conversation) -> None:
        """The conversation is over: it listens nowhere any more, and the sessions that were its alone are closed."""
        self.stop_listening(conversation)
        self._pool.end(binding.want.key for binding in conversation.bindings.values() if binding.own)
        conversation.bindings.clear()

    def tell(self, conversation: Conversation, method: str) -> None:
        """Pass a client's notification on to the sessions that are its alone. Nobody waits for it."""
        for session in _sessions(conversation, own=True):
            runtime.spawn(_notify(session, method), f"pass on {method}")

    async def close(self) -> None:
        """Close the pool that this forward's calls use."""
        await self._pool.close_all()

    def listen(self, conversation: Conversation) -> None:
        """The conversation's client began to listen: so do the sessions that it goes on in."""
        for session in _sessions(conversation):
            self._hearing.begin(session, conversation)

    def stop_listening(self, conversation: Conversation) -> None:
        """The conversation's client listens no more: nor do its sessions, unless somebody else does in them."""
        if conversation.may_be_asked:
            return
        for session in _sessions(conversation):
            self._hearing.end(session, conversation)


def _judge(error: AuthRefused, upstream: Upstream, conversation: Conversation, credential: Credential) -> None:
    """Note whether the credential that was refused can be replaced by a fresh one."""
    error.refreshable = error.status == 401 and upstream.credentials.refused(conversation.principal, credential)


def _sessions(conversation: Conversation, *, own: bool = False) -> list[UpstreamSession]:
    """The open sessions that a conversation goes on in; `own`: those that are its alone."""
    kept = [each.session for each in conversation.bindings.values() if (each.own if own else each.kept)]
    return [session for session in kept if session is not None and not session.closed]


async def _notify(session: UpstreamSession, method: str) -> None:
    try:
        await session.notify(method, None, session.own_headers)
    except UpstreamError as error:
        _log.info("%s was not passed on: %s", method, error)


def _partition(policy: str, conversation: Conversation, conversation_key: str) -> str:
    """What, beside the user, two calls must have in common to share a session."""
    if policy == "bound" and conversation.id:
        return f"bound:{conversation.id}"
    # A server that speaks both generations is spoken to in the client's: such sessions are not alike.
    generation = ".modern" if revisions.is_modern(conversation.version) else ""
    if policy in OF_ONE_STATE:
        return f"principal{generation}{conversation_key}"
    return policy + generation
