"""The shelf, and those who wait in front of it."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from mcpgateway.pool.blocked import Blocked
from mcpgateway.pool.key import Terms
from mcpgateway.pool.session import Lease, PooledSession, TransportType
from mcpgateway.pool.shelf import Shelf, spoiled
from tests.fakes.upstream_session import FakeSession, FakeUpstream, key_of


class FakeWaiter:
    """Somebody in line."""

    def __init__(self, shelf: Shelf, turn: int) -> None:
        self.turn = turn
        self.generation = 0
        self.gone = False
        self.got: Lease | BaseException | None = None
        shelf.waiters[self] = None

    def done(self) -> bool:
        return self.gone or self.got is not None

    def grant(self, lease: Lease) -> None:
        self.got = lease

    def refuse(self, error: BaseException) -> None:
        self.got = error


def session_of(shelf: Shelf) -> PooledSession:
    inner = FakeSession(FakeUpstream(), shelf.key, 0)
    session = PooledSession(inner, AsyncExitStack(), shelf.key.url, "", TransportType.STREAMABLE_HTTP)
    session.shelf, session.key = shelf, shelf.key
    return session


def shelf_of(user: str = "alice", upstream: str = "crm", *, exclusive: bool = True, spares: int = 0) -> Shelf:
    return Shelf(key_of(user, upstream), Terms(exclusive=exclusive, spares=spares))


def test_the_first_in_line_is_the_first_who_has_not_given_up() -> None:
    shelf = shelf_of()
    first, second, third = (FakeWaiter(shelf, turn) for turn in range(3))
    assert shelf.first_waiter() is first
    first.gone = second.gone = True
    assert shelf.first_waiter() is third
    assert list(shelf.waiters) == [third]
    third.gone = True
    assert shelf.first_waiter() is None and shelf.empty


@pytest.mark.parametrize(("exclusive", "wanted"), [(True, 3), (False, 1)])
def test_as_many_sessions_are_wanted_as_those_in_line_need(exclusive: bool, wanted: int) -> None:
    shelf = shelf_of(exclusive=exclusive)
    assert shelf.wanted() == 0
    for turn in range(3):
        FakeWaiter(shelf, turn)
    assert shelf.wanted() == wanted
    shelf.opening = 1
    assert shelf.wanted() == wanted - 1
    shelf.probing.add(session_of(shelf))
    assert shelf.wanted() == wanted - 2


def test_spares_are_missing_only_once_it_is_known_how_to_open_them_and_nobody_waits() -> None:
    shelf = shelf_of(spares=2)
    assert shelf.missing_spares() == 0
    shelf.restock = FakeUpstream().opens(shelf.key)
    assert shelf.missing_spares() == 2
    shelf.opening = 1
    shelf.idle.append(session_of(shelf))
    assert shelf.missing_spares() == 0
    shelf.idle.clear()
    FakeWaiter(shelf, 0)
    assert shelf.missing_spares() == 0


def test_p4_what_is_idle_opening_or_closing_takes_a_place_too() -> None:
    shelf = shelf_of()
    shelf.idle.append(session_of(shelf))
    shelf.busy.add(session_of(shelf))
    shelf.opening, shelf.closing = 2, 3
    assert shelf.size == 7 and not shelf.empty
    assert repr(shelf) == "<Shelf 1 leased, 1 idle, 2 opening, 0 waiting>"


def test_a_busy_session_is_shared_only_where_sessions_are_and_while_it_is_good() -> None:
    own, shared = shelf_of(), shelf_of(exclusive=False)
    for shelf in (own, shared):
        shelf.busy.add(session_of(shelf))
    (session,) = shared.busy
    assert own.sharable(0.0) is None and shared.sharable(0.0) is session
    shared.probing.add(session)
    assert shared.sharable(0.0) is None
    shared.probing.clear()
    session.retired = True
    assert shared.sharable(0.0) is None


def test_p14_a_session_is_spoiled_when_retired_old_or_cut_off() -> None:
    session = session_of(shelf_of())
    session.close_at = 10.0
    assert not spoiled(session, 10.0) and spoiled(session, 10.1)
    session.session.closed = True
    assert spoiled(session, 0.0)
    session.session.closed = object()  # a stand-in that answers anything says nothing
    assert not spoiled(session, 0.0)
    session.retired = True
    assert spoiled(session, 0.0)


def test_p4_a_free_place_is_for_the_one_who_came_first_of_those_whom_it_helps() -> None:
    blocked = Blocked()
    late, early, other = shelf_of("ann"), shelf_of("ben"), shelf_of("cat", "files")
    for shelf, turn in ((late, 3), (early, 1), (other, 0)):
        FakeWaiter(shelf, turn)
    for shelf, scope in ((late, "total"), (early, "upstream"), (other, "principal")):
        blocked.put(shelf, scope)
    freed = key_of("dan", "crm")
    assert blocked.next_for_place(freed, set()) is early
    assert blocked.next_for_place(freed, {"upstream"}) is late
    assert blocked.next_for_place(freed, {"upstream", "total"}) is None
    assert blocked.next_for_place(key_of("cat", "else"), set()) is other
    assert repr(blocked) == "<Blocked 3 shelves at 3 gates>"


def test_p4_one_for_whom_room_is_being_made_already_is_passed_over() -> None:
    blocked, first, second = Blocked(), shelf_of("ann"), shelf_of("ben")
    for turn, shelf in enumerate((first, second)):
        FakeWaiter(shelf, turn)
        blocked.put(shelf, "total")
    assert blocked.next_for_eviction(key_of("cat")) is first
    first.evicting = 1
    assert blocked.next_for_eviction(key_of("cat")) is second


def test_p16_who_is_held_up_no_more_leaves_nothing() -> None:
    blocked, shelf = Blocked(), shelf_of()
    blocked.put(shelf, "total")
    blocked.put(shelf, "principal")
    blocked.drop(shelf)
    blocked.drop(shelf)
    assert not blocked.gate_of and not blocked._behind
