"""What a modern server says outside calls: one `subscriptions/listen` stream for all sessions of one identity.

The stream asks for what at least one session wants. When that changes, a new stream is opened and the old one closed once
the new one is acknowledged, so that nothing is missed; when it breaks, it is opened again, with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from msgspec import Raw

from mcpgateway.errors import (
    AuthRefused,
    ConnectionLost,
    HttpRefused,
    InvalidParams,
    RpcError,
    SessionLost,
    UpstreamError,
    UpstreamTimeout,
)
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.modern import ACKNOWLEDGED, UPDATED
from mcpgateway.runtime import Sweep, spawn
from mcpgateway.upstream.base import Listener, Welcome
from mcpgateway.upstream.subscriptions import CHANGES, Wanted, announced_by, covers, honoured_in

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
"""A stream that lasted this long has proved itself: the pauses begin anew."""

ACKNOWLEDGE_SECONDS = 30.0
MAX_URIS = 10_000
INTERNAL_ERROR = -32603
INVALID_PARAMS = -32602

_log = logging.getLogger("mcpgateway.upstream")

LIST_CHANGES = frozenset(method for _, method in CHANGES.values())

Heard = Callable[[str, jsonrpc.Params], None]
"""Told the method and the params of each notification of a stream, the subscription's id taken out."""

Stream = Callable[[Raw, Heard], Awaitable[None]]
"""Runs a stream for a raw filter until the server ends it; cancelled, it ends it itself. Raises RpcError, UpstreamError."""

Refusal = UpstreamError | RpcError


class Member(Protocol):
    """A session that wants to hear."""

    welcome: Welcome
    listener: Listener | None


class Listening:
    """The listen stream of one server and identity. It is open while at least one member wants something."""

    def __init__(self, upstream: str, stream: Stream, sweep: Sweep) -> None:
        self._upstream = upstream
        self._begin = stream
        self._sweep = sweep
        self._lists: dict[Member, frozenset[str]] = {}
        self._uris: dict[Member, set[str]] = {}
        self._waiting: dict[asyncio.Future[Refusal | None], str] = {}
        self._stream: _Stream | None = None
        self._opening: _Stream | None = None
        self._refused: Wanted | None = None
        self.unauthorized = False
        """Whether it was a credential for which the server refused."""
        self._missed = False
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self.deadline = math.inf

    def __repr__(self) -> str:
        state = "open" if self._stream is not None else "closed"
        return f"<Listening to {self._upstream} {state} for {len(self._lists.keys() | self._uris.keys())} sessions>"

    def listen(self, member: Member) -> None:
        """`member` wants to hear of all lists of which the server announces changes."""
        self._lists[member] = announced_by(member.welcome)
        self._step()

    def stop_listening(self, member: Member) -> None:
        """`member` hears of lists no more. What it subscribed to stays."""
        self._lists.pop(member, None)
        self._step()

    async def subscribe(self, member: Member, uri: str, timeout_seconds: float) -> None:
        """Return once the server has acknowledged that it will tell of updates of `uri`.

        Raises RpcError where it does not offer that, UpstreamError where it cannot be asked.
        """
        uris = self._uris.setdefault(member, set())
        if uri in uris:
            return
        if len(uris) >= MAX_URIS:
            raise RpcError.of(INVALID_PARAMS, f"more than {MAX_URIS} subscriptions")
        uris.add(uri)
        try:
            await self._acknowledgement(uri, timeout_seconds)
        except BaseException:
            self.unsubscribe(member, uri)
            raise

    async def _acknowledgement(self, uri: str, timeout_seconds: float) -> None:
        if self._stream is not None and uri in self._stream.wanted.uris:
            if uri not in self._stream.honoured:
                raise self._not_offered()
            return
        answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = uri
        self._refused = None
        self._rest(math.inf)
        self._step()
        try:
            async with asyncio.timeout(timeout_seconds):
                error = await answer
        except TimeoutError as late:
            raise UpstreamTimeout(self._upstream, "it did not acknowledge a subscription in time") from late
        finally:
            self._waiting.pop(answer, None)
        if error is not None:
            raise error

    def _not_offered(self) -> RpcError:
        return RpcError.of(INVALID_PARAMS, f"upstream {self._upstream!r} does not tell of updates of this resource")

    def unsubscribe(self, member: Member, uri: str) -> None:
        """`member` hears of `uri` no more."""
        uris = self._uris.get(member)
        if uris is not None:
            uris.discard(uri)
            if not uris:
                del self._uris[member]
        self._step()

    def forget(self, member: Member) -> None:
        """`member` is gone."""
        self._lists.pop(member, None)
        self._uris.pop(member, None)
        self._step()

    def retry(self) -> None:
        """There is another credential than the one that was refused."""
        self.unauthorized = False
        self._refused = None
        self._step()

    def _wanted(self) -> Wanted:
        return Wanted(frozenset().union(*self._lists.values()), frozenset().union(*self._uris.values()))

    def _step(self) -> None:
        """Bring the stream into line with what is wanted. One is opened at a time: what changes meanwhile is seen after."""
        wanted = self._wanted()
        if not wanted:
            self._end()
            return
        fits = self._stream is not None and self._stream.wanted == wanted
        if self._opening is None and self.deadline == math.inf and not fits and wanted != self._refused:
            self._opening = _Stream(self, wanted, self._begin, self._sweep.now())
            self._sweep.watch(self._opening)

    def _end(self) -> None:
        for stream in (self._stream, self._opening):
            if stream is not None:
                stream.close()
                self._sweep.forget(stream)
        self._stream = self._opening = self._refused = None
        self._missed = False
        self._rest(math.inf)

    def _rest(self, until: float) -> None:
        self.deadline = until
        if until < math.inf:
            self._sweep.watch(self)
        else:
            self._sweep.forget(self)

    def expire(self) -> None:
        """The pause is over. The sweep calls this."""
        self.deadline = math.inf
        self._step()

    # Called by the streams.

    def acknowledged(self, stream: _Stream) -> None:
        """From now on this stream is the one."""
        self._sweep.forget(stream)
        old, self._stream, self._opening = self._stream, stream, None
        if old is not None:
            old.close()
        for answer, uri in list(self._waiting.items()):
            if uri in stream.wanted.uris:
                _settle(answer, None if uri in stream.honoured else self._not_offered())
        if self._missed:
            self._missed = False
            self._make_up(stream.wanted)
        self._step()

    def heard(self, method: str, params: jsonrpc.Params) -> None:
        """Tell those whom it concerns."""
        self._pause_seconds = FIRST_PAUSE_SECONDS
        body = msgspec.json.encode(params)
        for member in self._concerned(method, params):
            tell(self._upstream, member, method, body)

    def ended(self, stream: _Stream, error: Exception | None) -> None:
        """A stream is over that was not closed here."""
        if stream is self._opening:
            self._sweep.forget(stream)
            self._opening = None
            self._failed(stream, error or ConnectionLost(self._upstream, "it ended a listen stream at once"))
        elif stream is self._stream:
            self._stream = None
            self._missed = True
            if self._sweep.now() - stream.began_at >= LONGEST_PAUSE_SECONDS:
                self._pause_seconds = FIRST_PAUSE_SECONDS
            _log.info("listening to upstream %r again: %s", self._upstream, error or "it ended the stream")
            self._pause()
        self._step()

    def unacknowledged(self, stream: _Stream) -> None:
        """A stream was given up, for its server does not say whether it takes it."""
        self.ended(stream, UpstreamTimeout(self._upstream, f"no acknowledgement within {ACKNOWLEDGE_SECONDS:g} s"))

    def _failed(self, stream: _Stream, error: Exception) -> None:
        _log.info("listening to upstream %r: %s", self._upstream, error)
        for answer, uri in list(self._waiting.items()):
            if uri in stream.wanted.uris and isinstance(error, Refusal):
                _settle(answer, error)
        if _is_final(error):
            self._refused = stream.wanted
            self.unauthorized = isinstance(error, AuthRefused)
        else:
            self._pause()

    def _pause(self) -> None:
        self._rest(self._sweep.now() + self._pause_seconds)
        self._pause_seconds = min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS)

    def _make_up(self, wanted: Wanted) -> None:
        """Say that everything may have changed: nobody knows what a broken stream would have brought."""
        for kind in sorted(wanted.lists):
            for member in self._concerned(CHANGES[kind][1], {}):
                tell(self._upstream, member, CHANGES[kind][1], b"{}")
        for member, uris in list(self._uris.items()):
            for uri in sorted(uris):
                tell(self._upstream, member, UPDATED, msgspec.json.encode({"uri": uri}))

    def _concerned(self, method: str, params: jsonrpc.Params) -> list[Member]:
        if method in LIST_CHANGES:
            return list(self._lists)
        if method != UPDATED:
            # Nothing else is asked for, and the stream is several callers': what is meant for one must not reach another.
            _log.info("%s of upstream %r is for no one in particular, and was not passed on", method[:100], self._upstream)
            return []
        try:
            uri = jsonrpc.string_of(params, "uri")
        except InvalidParams as error:
            _log.warning("%s of upstream %r was not passed on: %s", method, self._upstream, error)
            return []
        return [member for member, uris in self._uris.items() if any(covers(own, uri) for own in uris)]


class _Stream:
    """One stream, from its request to its end. Its task is its own: nobody's cancellation but `close` ends it."""

    def __init__(self, listening: Listening, wanted: Wanted, begin: Stream, now: float) -> None:
        self.wanted = wanted
        self.honoured: frozenset[str] = frozenset()
        self.began_at = now
        self.deadline = now + ACKNOWLEDGE_SECONDS
        self.acknowledged = False
        self._listening = listening
        self._closed = False
        self._task = spawn(self._run(begin), f"{self!r}")

    def __repr__(self) -> str:
        return f"<listen stream for {len(self.wanted.lists)} lists and {len(self.wanted.uris)} resources>"

    async def _run(self, begin: Stream) -> None:
        error: Exception | None = None
        try:
            await begin(self.wanted.filter(), self._heard)
        except (RpcError, UpstreamError) as failure:
            error = failure
        except Exception as fault:  # it must end for those who wait for it, whatever went wrong
            _log.exception("listening failed")
            error = fault
        if not self._closed:
            self._listening.ended(self, error)

    def _heard(self, method: str, params: jsonrpc.Params) -> None:
        if self._closed:
            return
        if self.acknowledged:
            self._listening.heard(method, params)
        elif method == ACKNOWLEDGED:
            self.acknowledged = True
            self.honoured = honoured_in(params)
            self._listening.acknowledged(self)

    def close(self) -> None:
        """End it here, quietly."""
        self._closed = True
        self._task.cancel()

    def expire(self) -> None:
        """It was not acknowledged in time."""
        if not self.acknowledged and not self._closed:
            self.close()
            self._listening.unacknowledged(self)


def tell(upstream: str, member: Member, method: str, params: bytes) -> None:
    """Tell who listens for a session, if somebody does."""
    if member.listener is None:
        return
    try:
        member.listener.notified(method, params)
    except Exception:  # one listener's fault must not end the stream for the others
        _log.exception("%s of upstream %r was not passed on", method[:100], upstream)


def _is_final(error: Exception) -> bool:
    """Whether asking again would be answered in the same way."""
    if isinstance(error, RpcError):
        return error.code != INTERNAL_ERROR
    if isinstance(error, HttpRefused):
        return error.status < 500 and error.status not in (408, 425, 429)
    return isinstance(error, AuthRefused | SessionLost)


def _settle(answer: asyncio.Future[Refusal | None], error: Refusal | None) -> None:
    if not answer.done():
        answer.set_result(error)
