"""Downstream sessions, each bound to its principal and its endpoint."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from msgspec import UNSET

from mcpgateway.auth.principals import Principal
from mcpgateway.downstream.changes import Changes
from mcpgateway.downstream.event_store import KeptStream
from mcpgateway.errors import Busy, RpcError, UnknownSession
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import cannot_ask
from mcpgateway.protocol.modern import ASKABLE
from mcpgateway.runtime import Sweep
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.views import View

UNHEARD = 100
"""Messages outside calls that are kept for a client that does not listen yet."""

UNHEARD_BYTES = 1024 * 1024

QUESTION_SECONDS = 600.0
"""How long a client's user may take to answer."""

REAP_SECONDS = 5.0


class Outlet(Protocol):
    """A way to one client, on which messages go in order. None of these blocks."""

    def put(self, data: bytes) -> None:
        """Send a message that may be lost on a client who is too far behind with reading."""

    def put_surely(self, data: bytes) -> None:
        """Send a message that somebody waits for."""

    def end(self) -> None:
        """Nothing more will be sent: what was is still delivered."""


class ClientSession(Conversation):
    """A conversation with a client: its calls in flight, the questions it was asked, and the stream it listens on."""

    principal: Principal
    answers_on_stream = False
    """Whether answers go over the stream too, so that it must not end while there are calls in flight."""

    def __init__(
        self, principal: Principal, view: View, version: str, capabilities: bytes, client_info: bytes, sweep: Sweep
    ) -> None:
        super().__init__(secrets.token_hex(16), principal, version, capabilities, client_info)
        self.view = view
        self.last_used_at = 0.0
        self.batches = 0
        """Under way, some of whose requests may not have begun."""
        self.in_flight: dict[jsonrpc.Id, asyncio.Task[object]] = {}
        self.cancelled: set[jsonrpc.Id] = set()
        self.stopped = False
        """Whether what is cancelled was so because the gateway ends."""
        self.stream: Outlet | None = None
        self.kept: dict[str, KeptStream] = {}
        """By name: streams that the client may come back for."""
        self._sweep = sweep
        self._unheard: deque[bytes] = deque()
        self._unheard_bytes = 0
        self._unsaid: set[str] = set()
        self._questions: dict[str, asyncio.Future[bytes]] = {}
        self._numbers = itertools.count(1)
        self._changes = Changes(self._say_changed, sweep)

    def introduce(self, version: str, capabilities: bytes, client_info: bytes) -> None:
        """The client says who it is: later than its session begins, on wires that are open before it says anything."""
        self.version = version
        self.declare(capabilities)
        self.client_info = client_info

    def act_as(self, principal: Principal) -> None:
        """A request of this principal's begins. Raises Busy where others run that may do other things than it.

        It is the same one as before, perhaps by a newer token. What runs must not gain, or lose, what another token allows.
        """
        if self.busy and frozenset(principal.groups) != frozenset(self.principal.groups):
            raise Busy("requests with a token of other groups are in flight in this session; try again when they are answered")
        self.principal = principal

    @property
    def busy(self) -> bool:
        """Whether work is in flight; such a session is never evicted."""
        return bool(self.in_flight) or self.batches > 0

    def sees(self, upstream: str) -> bool:
        return upstream in self.view.upstreams

    def push(self, method: str, params: bytes) -> None:
        message = jsonrpc.notification(method, params)
        if self.stream is not None:
            self.stream.put(message)
        else:
            self._keep_unheard(message)

    def _keep_unheard(self, message: bytes) -> None:
        """Keep a message, and let go of the oldest ones that there is no room for: in the end of itself."""
        self._unheard.append(message)
        self._unheard_bytes += len(message)
        while len(self._unheard) > UNHEARD or self._unheard_bytes > UNHEARD_BYTES:
            self._unheard_bytes -= len(self._unheard.popleft())

    def lists_changed(self, kind: str) -> None:
        """Announced a moment later, once however often it is said meanwhile."""
        self._changes.add(kind)

    def _say_changed(self, kind: str) -> None:
        if self.stream is None:
            # Not among the messages that wait: those are limited in number, and a flag must not be lost.
            self._unsaid.add(kind)
        else:
            self.stream.put_surely(jsonrpc.notification(f"notifications/{kind}/list_changed", b"{}"))

    def attach(self, stream: Outlet) -> Outlet | None:
        """Listen on `stream`. The one that was listened on before, to be ended: a client that comes again lost it."""
        before, self.stream = self.stream, stream
        self.listening = True
        while self._unheard:
            stream.put(self._unheard.popleft())
        self._unheard_bytes = 0
        unsaid, self._unsaid = self._unsaid, set()
        for kind in sorted(unsaid):
            self._say_changed(kind)
        return before

    def detach(self, stream: Outlet) -> bool:
        """Stop listening on `stream`. False if another one took its place."""
        if self.stream is not stream:
            return False
        self.stream = None
        self.listening = False
        return True

    async def ask(self, method: str, params: bytes) -> bytes:
        """Ask outside any call, on the stream that the client listens on."""
        if self.stream is None:
            raise cannot_ask(method)
        return await self.ask_on(self.stream.put_surely, method, params, set())

    async def ask_on(
        self, put: Callable[[bytes], None], method: str, params: bytes, open_questions: set[asyncio.Future[bytes]]
    ) -> bytes:
        """Ask through `put`, and wait for the answer that the client posts. Raises RpcError with its refusal.

        While it waits, its future is in `open_questions`, so that whoever sees the client leave can fail it.
        """
        if not self.can(method):
            raise RpcError.of(-32601, f"the client did not declare that it can be asked {method}")
        id = f"gateway-{next(self._numbers)}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._questions[id] = answer
        open_questions.add(answer)
        unanswered = _Unanswered(answer, self._sweep.now() + QUESTION_SECONDS)
        self._sweep.watch(unanswered)
        put(jsonrpc.request_raw(id, method, params))
        try:
            return await answer
        except asyncio.CancelledError:
            reason = b'{"requestId":"%b","reason":"the call it belonged to is over"}' % id.encode()
            put(jsonrpc.notification("notifications/cancelled", reason))
            raise
        finally:
            del self._questions[id]
            open_questions.discard(answer)
            self._sweep.forget(unanswered)

    def can(self, method: str) -> bool:
        """Whether the client declared the capability that a question needs."""
        needed = ASKABLE.get(method)
        return needed is None or needed in jsonrpc.object_of(self.capabilities)

    def answered(self, message: jsonrpc.Message) -> None:
        """The client posted a response. One that nobody waits for is ignored: its question was withdrawn."""
        future = self._questions.get(message.id) if isinstance(message.id, str) else None
        if future is None or future.done():
            return
        # Some clients write both fields, the one that does not apply as null.
        if message.error and bytes(message.error) != b"null":
            future.set_exception(RpcError(bytes(message.error)))
        elif message.result is UNSET:
            future.set_exception(RpcError.of(-32603, "the client's answer holds neither a result nor an error"))
        else:
            future.set_result(bytes(message.result))

    def cancel(self, id: jsonrpc.Id) -> None:
        """The client takes a request back. One that is over, or never was, is ignored."""
        task = self.in_flight.get(id)
        if task is not None and id not in self.cancelled:
            self.cancelled.add(id)
            task.cancel()

    def drain(self) -> None:
        """End the stream that the client listens on. One that carries answers stays until the calls in flight have theirs."""
        if self.stream is not None and not (self.answers_on_stream and self.busy):
            self.stream.end()

    def stop(self) -> None:
        """The gateway ends: calls in flight are cancelled, and answered with that."""
        self.stopped = True
        for id in list(self.in_flight):
            self.cancel(id)

    def close(self) -> None:
        """Nothing goes on here: calls are cancelled, questions fail, the stream ends."""
        for id in list(self.in_flight):
            self.cancel(id)
        for question in self._questions.values():
            if not question.done():
                question.set_exception(RpcError.of(-32603, "the client's session ended before it answered"))
        if self.stream is not None:
            self.stream.end()
        for kept in list(self.kept.values()):
            kept.forget()


class _Unanswered:
    """A question whose client may stay silent: it is refused when the deadline passes."""

    def __init__(self, answer: asyncio.Future[bytes], deadline: float) -> None:
        self._answer = answer
        self.deadline = deadline

    def expire(self) -> None:
        if not self._answer.done():
            self._answer.set_exception(RpcError.of(-32603, f"the client did not answer within {QUESTION_SECONDS:g} s"))


class Sessions:
    """All downstream sessions. That one is in use is noted, and costs no more: who was idle longest is found when it matters.

    `on_end` is told of each that ends. Sessions that are idle for `idle_seconds` end; when `limit` is reached, the least
    recently used one of the principal who has the most makes room, work in flight never.
    """

    def __init__(self, limit: int, idle_seconds: float, sweep: Sweep, on_end: Callable[[ClientSession], None]) -> None:
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._sweep = sweep
        self._on_end = on_end
        self._sessions: dict[str, ClientSession] = {}
        self._per_user: Counter[str] = Counter()
        self.deadline = 0.0

    def __repr__(self) -> str:
        return f"<Sessions {len(self)} of {len(self._per_user)} principals>"

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> list[ClientSession]:
        return list(self._sessions.values())

    def add(self, session: ClientSession) -> None:
        """Raises Busy where every session has work in flight."""
        if len(self._sessions) >= self._limit:
            self._make_room()
        if not self._sessions:
            self.deadline = self._sweep.now() + REAP_SECONDS
            self._sweep.watch(self)
        session.last_used_at = self._sweep.now()
        self._sessions[session.id] = session
        self._per_user[session.user] += 1

    def _make_room(self) -> None:
        for user, _ in self._per_user.most_common():
            at_rest = [session for session in self._sessions.values() if session.user == user and not session.busy]
            if at_rest:
                self.end(min(at_rest, key=lambda session: session.last_used_at))
                return
        raise Busy("every client session has calls in flight (gateway.limits.client_sessions); try again shortly")

    def get(self, id: str, user: str, view: View) -> ClientSession:
        """The session of this id. Somebody else's, or one of another endpoint, is as unknown as one that never was."""
        session = self._sessions.get(id)
        if session is None or session.user != user or session.view is not view:
            raise UnknownSession
        self.touch(session)
        return session

    def touch(self, session: ClientSession) -> None:
        """The session is in use now, or was until now: its idle time begins anew."""
        session.last_used_at = self._sweep.now()

    def end(self, session: ClientSession) -> None:
        """End a session: its calls are cancelled, its stream is closed, what belongs to it upstream is given up."""
        if self._sessions.pop(session.id, None) is None:
            return
        self._per_user[session.user] -= 1
        if not self._per_user[session.user]:
            del self._per_user[session.user]
        session.close()
        self._on_end(session)

    def expire(self) -> None:
        """End what has been idle for too long; the sweep comes round again while there are sessions."""
        oldest = self._sweep.now() - self._idle_seconds
        for session in self.all():
            if session.last_used_at <= oldest and not session.busy and session.stream is None:
                self.end(session)
        if self._sessions:
            self.deadline = self._sweep.now() + REAP_SECONDS
            self._sweep.watch(self)
