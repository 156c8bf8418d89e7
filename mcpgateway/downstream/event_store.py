"""Events as they were sent, kept for a while, so that a client that lost a response can come back for the rest (2025-11-25).

An event's id is its stream's name and its number there. It is looked for in the session that asks, and nowhere else.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from mcpgateway.downstream.event_stream import EventStream
from mcpgateway.errors import InvalidRequest
from mcpgateway.protocol import sse
from mcpgateway.runtime import Sweep

KEPT_SECONDS = 300.0
RETRY_MILLISECONDS = 1000
"""How soon a client that lost a stream is asked to come back."""

RETURN_SECONDS = 30.0
"""How long a question waits for a client that lost the stream on which it was asked."""

TIDY_SECONDS = 5.0
GENERAL = "0"
"""The stream of what is said outside calls."""


class Bounds(NamedTuple):
    """How much is kept at most."""

    events: int
    bytes: int


OF_A_STREAM = Bounds(1000, 8 * 1024 * 1024)
OF_A_PRINCIPAL = Bounds(10_000, 8 * 1024 * 1024)
OF_ALL = Bounds(100_000, 128 * 1024 * 1024)


class Owner(Protocol):
    """The session that streams belong to."""

    user: str
    kept: dict[str, KeptStream]


class _Kept:
    """One event. `piles` are those that it is in."""

    __slots__ = ("at", "event", "gone", "number", "piles", "stream")

    def __init__(self, stream: KeptStream, number: int, event: bytes, at: float, piles: tuple[_Pile, ...]) -> None:
        self.stream = stream
        self.number = number
        self.event = event
        self.at = at
        self.piles = piles
        self.gone = False


class _Pile:
    """Events in the order in which they came, and how much room they take. An event is in several piles at once."""

    def __init__(self, bounds: Bounds) -> None:
        self.count = 0
        self.bytes = 0
        self._bounds = bounds
        self._events: deque[_Kept] = deque()

    def __repr__(self) -> str:
        return f"<_Pile {self.count} events, {self.bytes} bytes>"

    @property
    def over(self) -> bool:
        return self.count > self._bounds.events or self.bytes > self._bounds.bytes

    @property
    def oldest(self) -> _Kept | None:
        return self._events[0] if self._events else None

    def add(self, kept: _Kept) -> None:
        self._events.append(kept)
        self.count += 1
        self.bytes += len(kept.event)

    def lose(self, kept: _Kept) -> None:
        """An event is gone. The list is shortened when it was the oldest, which it mostly is, or most of it is gone."""
        self.count -= 1
        self.bytes -= len(kept.event)
        while self._events and self._events[0].gone:
            self._events.popleft()
        # Behind one event that stays, those of any number of streams may go.
        if len(self._events) > 2 * self.count:
            self._events = deque(each for each in self._events if not each.gone)

    def after(self, number: int) -> list[bytes]:
        return [kept.event for kept in self._events if kept.number > number and not kept.gone]


class KeptStream:
    """One stream of events, whichever response carries it at the moment; while none does, its events are kept. An `Outlet`."""

    def __init__(self, store: EventStore, sweep: Sweep, owner: Owner, name: str) -> None:
        self.owner = owner
        self.name = name
        self.pile = _Pile(OF_A_STREAM)
        self.over = False
        """Whether nothing more will be put."""
        self.absent = False
        """Whether the client lost the stream, and has been away for too long to be waited for."""
        self.when_absent: Callable[[], None] = _nothing
        self.deadline = 0.0
        self._store = store
        self._sweep = sweep
        self._carrier: EventStream | None = None
        self.last = 0

    def __repr__(self) -> str:
        return f"<KeptStream {self.name} at {self.last}, {self.pile.count} kept{' over' if self.over else ''}>"

    def encode(self, data: bytes) -> bytes:
        """The event of a message. From now on it is kept."""
        self.last += 1
        event = sse.encode(data, id=self._id(self.last))
        if not self.over:
            self._store.keep(self, self.last, event)
        return event

    def _id(self, number: int) -> bytes:
        return f"{self.name}-{number}".encode()

    def holds(self, number: int) -> bool:
        """Whether an event of that number was ever sent, or the stream's beginning, which has number 0."""
        return 0 <= number <= self.last

    def put(self, data: bytes) -> None:
        if self._carrier is not None:
            self._carrier.put(data)
        else:
            self.encode(data)

    def put_surely(self, data: bytes) -> None:
        if self._carrier is not None:
            self._carrier.put_surely(data)
        else:
            self.encode(data)

    def end(self) -> None:
        """Nothing more will be put; what is kept may still be asked for."""
        self.over = True
        self._sweep.forget(self)
        if self._carrier is not None:
            self._carrier.end()
        self._store.ended(self)

    def begin_on(self, stream: EventStream, after: int | None = None) -> None:
        """Send on `stream`, which encodes with us, what primes a client, and what came after an event that it has had."""
        number = self.last if after is None else after
        stream.send(self._primer(number, RETRY_MILLISECONDS))
        for event in self.pile.after(number):
            stream.send(event)

    def _primer(self, number: int, retry_milliseconds: int) -> bytes:
        """What tells a client where it is, and how soon to come back when it loses the stream."""
        return b"id: %b\nretry: %d\ndata: \n\n" % (self._id(number), retry_milliseconds)

    def carry(self, stream: EventStream, after: int | None = None) -> None:
        """Go on on `stream`. The response that carried this before is ended: its client has lost it."""
        before, self._carrier = self._carrier, stream
        if before is not None:
            before.end()
        self.absent = False
        self._sweep.forget(self)
        self.begin_on(stream, after)
        if self.over:
            stream.end()

    def lost(self, stream: EventStream) -> None:
        """The client has lost `stream`, and may come back on another."""
        stream.end_at_once()
        if self._carrier is stream:
            self._wait(0.0)

    def pause(self, seconds: float) -> None:
        """End the response that carries this, and have the client come back for the rest after so long."""
        if self._carrier is not None and not self.over:
            self._carrier.send(self._primer(self.last, round(seconds * 1000)))
            self._carrier.end()
            self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        """Nothing carries this for now. The client is missed if it is not back for long after it could be."""
        self._carrier = None
        if not self.over:
            self.deadline = self._sweep.now() + seconds + RETURN_SECONDS
            self._sweep.watch(self)

    def expire(self) -> None:
        """It did not come back."""
        self.absent = True
        self.when_absent()

    def forget(self) -> None:
        """Nobody will ask for any of it again."""
        self.over = True
        self._sweep.forget(self)
        self._store.forget(self)


class EventStore:
    """What is kept of all streams. When there is too much of one stream, of one principal or in all, the oldest goes."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._all = _Pile(OF_ALL)
        self._users: dict[str, _Pile] = {}
        self._names = itertools.count(1)
        self._watching = False
        self.deadline = 0.0

    def __repr__(self) -> str:
        return f"<EventStore {self._all.count} events, {self._all.bytes} bytes, {len(self._users)} principals>"

    def __len__(self) -> int:
        return self._all.count

    def open(self, owner: Owner) -> KeptStream:
        """A new stream, for one call of the owner's."""
        return self._open(owner, str(next(self._names)))

    def general(self, owner: Owner) -> KeptStream:
        """The owner's stream of what is said outside calls."""
        return owner.kept.get(GENERAL) or self._open(owner, GENERAL)

    def _open(self, owner: Owner, name: str) -> KeptStream:
        stream = owner.kept[name] = KeptStream(self, self._sweep, owner, name)
        return stream

    def find(self, owner: Owner, event_id: bytes) -> tuple[KeptStream, int]:
        """The stream of an event of the owner's, and the event's number there. Raises InvalidRequest where it is unknown."""
        name, _, number = event_id.decode("latin-1").rpartition("-")
        stream = owner.kept.get(name)
        if stream is not None and number.isdecimal() and len(number) < 20 and stream.holds(int(number)):
            return stream, int(number)
        if name == GENERAL:
            general = self.general(owner)
            return general, general.last
        raise InvalidRequest("Last-Event-ID: nothing is kept any more of the stream that this event was on")

    def keep(self, stream: KeptStream, number: int, event: bytes) -> None:
        """Keep an event, and let go of the oldest ones that there is no room for any more: in the end of itself."""
        user = self._users.setdefault(stream.owner.user, _Pile(OF_A_PRINCIPAL))
        kept = _Kept(stream, number, event, self._sweep.now(), (stream.pile, user, self._all))
        for pile in kept.piles:
            pile.add(kept)
        for pile in kept.piles:
            while pile.over and (oldest := pile.oldest) is not None:
                self._drop(oldest)
        if not self._watching:
            self._watch()

    def ended(self, stream: KeptStream) -> None:
        """A stream is over. One of which nothing is kept is not worth remembering."""
        if stream.over and not stream.pile.count and stream.owner.kept.get(stream.name) is stream:
            del stream.owner.kept[stream.name]

    def forget(self, stream: KeptStream) -> None:
        while (oldest := stream.pile.oldest) is not None:
            self._drop(oldest)
        self.ended(stream)

    def _drop(self, kept: _Kept) -> None:
        kept.gone = True
        for pile in kept.piles:
            pile.lose(kept)
        kept.event = b""
        user = kept.stream.owner.user
        if not self._users[user].count:
            del self._users[user]
        self.ended(kept.stream)

    def _watch(self) -> None:
        self._watching = True
        self.deadline = self._sweep.now() + TIDY_SECONDS
        self._sweep.watch(self)

    def expire(self) -> None:
        """Let go of what is too old; the sweep comes round again while anything is kept."""
        too_old = self._sweep.now() - KEPT_SECONDS
        while (oldest := self._all.oldest) is not None and oldest.at <= too_old:
            self._drop(oldest)
        self._watching = False
        if self._all.count:
            self._watch()


def _nothing() -> None:
    return
