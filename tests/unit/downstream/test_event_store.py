"""What is kept of streams for clients that come back: how much, how long, and for whom."""

from __future__ import annotations

import re

import pytest

from mcpgateway.auth.principals import Principal
from mcpgateway.downstream.event_store import (
    GENERAL,
    KEPT_SECONDS,
    OF_A_PRINCIPAL,
    OF_A_STREAM,
    OF_ALL,
    RETURN_SECONDS,
    EventStore,
    KeptStream,
)
from mcpgateway.downstream.event_stream import EventStream
from mcpgateway.downstream.sessions import ClientSession
from mcpgateway.errors import InvalidRequest
from mcpgateway.runtime import Sweep
from mcpgateway.services.views import View
from tests.fakes.clock import FakeClock
from tests.fakes.until import until
from tests.unit.downstream.asgi import Exchange

LARGE = b'"%b"' % (b"x" * 1024 * 1024)


class Rig:
    """A store under a clock that the test moves."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.sweep = Sweep(clock)
        self.store = EventStore(self.sweep)

    def session(self, name: str = "alice") -> ClientSession:
        return ClientSession(Principal("static", name), View({}, single=False), "2025-11-25", b"{}", b"{}", self.sweep)

    def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.sweep.expire_due()

    def carried(self, stream: KeptStream, after: int | None = None) -> Exchange:
        """A response that carries a stream from now on."""
        exchange = Exchange()
        response = EventStream(exchange.asgi(), self.sweep, encode=stream.encode)
        response.start()
        stream.carry(response, after)
        return exchange


@pytest.fixture
async def rig(clock: FakeClock) -> Rig:
    return Rig(clock)


def kept(stream: KeptStream, after: int = 0) -> list[bytes]:
    """The data of what is kept after an event."""
    return [re.findall(rb"^data: (.*)$", event, re.MULTILINE)[0] for event in stream.pile.after(after)]


async def test_a_stream_that_nothing_carries_keeps_what_is_put(rig: Rig) -> None:
    stream = rig.store.open(rig.session())
    stream.put(b"1")
    stream.put_surely(b"2")
    assert kept(stream) == [b"1", b"2"] and kept(stream, after=1) == [b"2"]


async def test_what_was_sent_is_sent_again_on_the_next_response_from_where_the_client_was(rig: Rig) -> None:
    stream = rig.store.open(rig.session())
    first = rig.carried(stream)
    for number in range(1, 4):
        stream.put(b"%d" % number)
    assert await first.until_messages(3) == [1, 2, 3]
    second = rig.carried(stream, after=1)
    stream.put(b"4")
    assert await second.until_messages(3) == [2, 3, 4]
    await until(lambda: first.complete)
    assert len(first.messages) == 3
    ids = [line for line in second.body.decode().splitlines() if line.startswith("id: ")]
    assert ids == [f"id: {stream.name}-{number}" for number in (1, 2, 3, 4)]
    stream.end()
    assert stream.owner.kept[stream.name] is stream


async def test_i11_an_event_is_found_only_in_the_session_that_had_it(rig: Rig) -> None:
    alice, also_alice, bob = rig.session(), rig.session(), rig.session("bob")
    stream = rig.store.open(alice)
    stream.put(b"1")
    id = f"{stream.name}-1".encode()
    assert rig.store.find(alice, id) == (stream, 1)
    for other in (also_alice, bob):
        with pytest.raises(InvalidRequest, match="nothing is kept"):
            rig.store.find(other, id)


@pytest.mark.parametrize(
    "id", [b"", b"-", b"1", b"1-", b"1--1", b"1-2", b"1-x", b"9-1", b"1-" + b"1" * 5000, b"\xff-1", b"1-\xb2"]
)
async def test_an_id_that_was_never_given_out_is_unknown(id: bytes, rig: Rig) -> None:
    session = rig.session()
    stream = KeptStream(rig.store, rig.sweep, session, "1")
    session.kept["1"] = stream
    stream.put(b"1")
    with pytest.raises(InvalidRequest):
        rig.store.find(session, id)


async def test_of_the_general_stream_one_can_always_go_on(rig: Rig) -> None:
    session = rig.session()
    assert rig.store.find(session, b"0-17") == (rig.store.general(session), 0)
    rig.store.general(session).put(b"1")
    assert rig.store.find(session, b"0-0") == (session.kept[GENERAL], 0)
    assert rig.store.find(session, b"0-17") == (session.kept[GENERAL], 1)


async def test_of_one_stream_the_oldest_goes_first_and_other_streams_keep_theirs(rig: Rig) -> None:
    session = rig.session()
    quiet, noisy = rig.store.open(session), rig.store.open(session)
    quiet.put(b"1")
    for number in range(OF_A_STREAM.events + 10):
        noisy.put(b"%d" % number)
    assert kept(noisy)[0] == b"10" and noisy.pile.count == OF_A_STREAM.events and kept(quiet) == [b"1"]


async def test_one_principal_takes_no_room_from_another(rig: Rig) -> None:
    bob = rig.store.open(rig.session("bob"))
    bob.put_surely(b"1")
    sessions = [rig.session() for _ in range(3)]
    streams = [rig.store.open(session) for session in sessions for _ in range(OF_A_PRINCIPAL.bytes // len(LARGE))]
    for stream in streams:
        stream.put_surely(LARGE)
        stream.end()
    left = [stream for stream in streams if stream.pile.count]
    assert left == streams[-len(left) :] and 0 < len(left) * len(LARGE) <= OF_A_PRINCIPAL.bytes
    assert {id(stream) for session in sessions for stream in session.kept.values()} == {id(stream) for stream in left}
    assert kept(bob) == [b"1"]


async def test_in_all_there_is_a_bound(rig: Rig) -> None:
    for number in range(OF_ALL.bytes // len(LARGE) + 10):
        rig.store.open(rig.session(f"user {number}")).put_surely(LARGE)
    assert len(rig.store) * len(LARGE) <= OF_ALL.bytes
    assert len(rig.store._users) == len(rig.store)


async def test_what_is_larger_than_what_may_be_kept_is_sent_and_not_kept(rig: Rig) -> None:
    session = rig.session()
    stream = rig.store.open(session)
    exchange = rig.carried(stream)
    stream.put_surely(b'"%b"' % (b"x" * OF_A_STREAM.bytes))
    stream.end()
    assert len((await exchange.until_messages(1))[0]) == OF_A_STREAM.bytes
    assert len(rig.store) == 0 and session.kept == {}


async def test_what_is_old_goes_and_a_stream_that_is_over_with_it(rig: Rig) -> None:
    session = rig.session()
    over, going_on = rig.store.open(session), rig.store.open(session)
    over.put(b"1")
    rig.passes(KEPT_SECONDS / 2)
    going_on.put(b"2")
    over.put_surely(b"answer")
    over.end()
    rig.passes(KEPT_SECONDS / 2)
    assert kept(over) == [b"answer"] and rig.store.find(session, f"{over.name}-0".encode())
    rig.passes(KEPT_SECONDS / 2)
    assert kept(over) == kept(going_on) == [] and list(session.kept) == [going_on.name]
    with pytest.raises(InvalidRequest):
        rig.store.find(session, f"{over.name}-0".encode())


async def test_p16_streams_and_principals_come_and_go_and_nothing_is_left(rig: Rig) -> None:
    for number in range(1000):
        session = rig.session(f"user {number}")
        for stream in (rig.store.open(session), rig.store.general(session)):
            stream.put(b"1")
        session.close()
        stream.put(b"late")
        assert session.kept == {}
    assert len(rig.store) == 0 and rig.store._users == {} and rig.store._all.bytes == 0
    rig.passes(KEPT_SECONDS)
    assert len(rig.sweep) == 0 and not rig.store._all._events


async def test_a_client_that_does_not_come_back_is_absent_and_one_that_does_is_not(rig: Rig) -> None:
    stream = rig.store.open(rig.session())
    told: list[bool] = []
    stream.when_absent = lambda: told.append(stream.absent)
    for returns in (True, False):
        response = EventStream(Exchange().asgi(), rig.sweep, encode=stream.encode)
        response.start()
        stream.carry(response)
        stream.lost(response)
        rig.passes(RETURN_SECONDS - 1)
        if returns:
            rig.carried(stream)
        rig.passes(RETURN_SECONDS)
        assert told == ([] if returns else [True])
    rig.carried(stream)
    assert not stream.absent
    stream.end()


async def test_a_response_that_was_replaced_is_not_missed_when_its_client_goes(rig: Rig) -> None:
    stream = rig.store.open(rig.session())
    older = EventStream(Exchange().asgi(), rig.sweep, encode=stream.encode)
    older.start()
    stream.carry(older)
    newer = rig.carried(stream)
    stream.lost(older)
    stream.put(b"1")
    assert await newer.until_messages(1) == [1]
    rig.passes(RETURN_SECONDS)
    assert not stream.absent
    stream.end()
