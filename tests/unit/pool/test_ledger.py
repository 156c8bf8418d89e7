"""The ledger: every decision is a function call."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.ledger import Ledger
from mcpgateway.pool.limits import Limits
from mcpgateway.pool.session import Lease, PooledSession, TransportType
from mcpgateway.pool.stats import PoolStats
from tests.fakes.upstream_session import FakeSession, FakeUpstream, key_of

TERMS = Terms(max_sessions=3, max_idle_seconds=300.0, probe_after_seconds=60.0)
SHARED = TERMS._replace(exclusive=False)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(Limits(total=4, per_upstream=3, per_principal=2), PoolStats())


def opened(ledger: Ledger, key: PoolKey, now: float = 0.0, terms: Terms = TERMS, close_at: float = 1e9) -> PooledSession:
    """A session that was opened just now, idle."""
    shelf = ledger.shelf(key, terms)
    assert ledger.reserve(shelf) is None
    inner = FakeSession(FakeUpstream(), key, 0)
    session = PooledSession(inner, AsyncExitStack(), key.url, key.identity, TransportType.STREAMABLE_HTTP)
    ledger.opened(shelf, session, ledger.generation(shelf), close_at, now)
    return session


def warm(ledger: Ledger, key: PoolKey, now: float) -> Lease | None:
    shelf = ledger.shelves.get(key)
    return ledger.warm(shelf, now) if shelf is not None else None


def taken(ledger: Ledger, key: PoolKey, now: float = 0.0) -> Lease:
    lease = warm(ledger, key, now)
    assert lease is not None
    return lease


def test_p7_what_came_home_last_is_lent_first(ledger: Ledger) -> None:
    first, second = opened(ledger, key_of()), opened(ledger, key_of())
    leases = [taken(ledger, key_of()) for _ in range(2)]
    assert [lease.pooled for lease in leases] == [second, first]
    assert warm(ledger, key_of(), 0.0) is None
    ledger.give_back(leases[0], 1.0)
    ledger.give_back(leases[1], 2.0)
    assert taken(ledger, key_of(), 2.0).pooled is first
    assert repr(ledger) == "<Ledger 1 keys, 1 idle, <Reservations 2/4, 1 principals>>"


def test_an_unknown_key_has_nothing_and_leaves_nothing(ledger: Ledger) -> None:
    assert warm(ledger, key_of(), 0.0) is None and ledger.end(key_of()) == []
    assert not ledger.shelves


def test_p2_only_the_first_release_of_a_lease_counts(ledger: Ledger) -> None:
    session = opened(ledger, key_of())
    lease = taken(ledger, key_of())
    ledger.give_back(lease, 0.0)
    again = taken(ledger, key_of())
    assert ledger.give_back(lease, 0.0, keep=False) is None
    assert session.leases == 1 and not session.retired
    ledger.give_back(again, 0.0)
    assert session.state == "idle"


def test_a_shared_session_comes_home_with_its_last_lease(ledger: Ledger) -> None:
    session = opened(ledger, key_of(), terms=SHARED)
    leases = [taken(ledger, key_of()) for _ in range(3)]
    assert {lease.pooled for lease in leases} == {session}
    for lease, idle in zip(leases, (0, 0, 1), strict=True):
        ledger.give_back(lease, 0.0)
        assert ledger.idle_count == idle


def test_a_shared_session_that_is_not_kept_is_closed_with_its_last_lease(ledger: Ledger) -> None:
    session = opened(ledger, key_of(), terms=SHARED)
    first, second = taken(ledger, key_of()), taken(ledger, key_of())
    assert ledger.give_back(first, 0.0, keep=False) is None
    assert warm(ledger, key_of(), 0.0) is None
    assert ledger.give_back(second, 0.0) is session


def test_p4_the_limit_of_a_key_holds_for_sessions_of_one_holder(ledger: Ledger) -> None:
    shelf = ledger.shelf(key_of(), TERMS._replace(max_sessions=1))
    assert ledger.reserve(shelf) is None
    assert ledger.reserve(shelf) == "key"


def test_p5_an_opening_that_failed_gives_its_place_back(ledger: Ledger) -> None:
    for _ in range(50):
        shelf = ledger.shelf(key_of(), TERMS)
        assert ledger.reserve(shelf) is None
        ledger.not_opened(shelf)
    assert not ledger.shelves and ledger.reservations.total == 0


def test_p5_a_shelf_that_was_dropped_does_not_take_its_successor_with_it(ledger: Ledger) -> None:
    old = ledger.shelf(key_of(), TERMS)
    ledger.forget_if_empty(old)
    new = ledger.shelf(key_of(), TERMS)
    ledger.forget_if_empty(old)
    assert new is not old and ledger.shelves == {key_of(): new}


def test_p4_a_session_keeps_its_place_until_it_is_gone(ledger: Ledger) -> None:
    session = opened(ledger, key_of())
    assert ledger.end(key_of()) == [session]
    assert ledger.reservations.total == 1 and ledger.shelves[key_of()].size == 1
    ledger.gone(session)
    ledger.gone(session)
    assert ledger.reservations.total == 0 and not ledger.shelves and ledger.stats.closed == 1


def test_p4_eviction_takes_the_least_recently_used_of_those_that_help(ledger: Ledger) -> None:
    anns, bens = opened(ledger, key_of("ann")), opened(ledger, key_of("ben", "files"))
    cats = opened(ledger, key_of("cat", "files"))
    ledger.give_back(taken(ledger, key_of("ann")), 5.0)
    shelf = ledger.shelf(key_of("ann", "files"), TERMS)
    assert ledger.evict_for(shelf, "principal") is anns
    assert ledger.evict_for(shelf, "principal") is None
    assert ledger.evict_for(shelf, "upstream") is bens
    assert ledger.evict_for(shelf, "total") is cats
    assert (shelf.evicting, ledger.stats.evicted) == (3, 3)
    ledger.gone(bens)
    assert shelf.evicting == 2


def test_p4_what_is_lent_is_not_evicted(ledger: Ledger) -> None:
    opened(ledger, key_of("ann"))
    taken(ledger, key_of("ann"))
    assert ledger.evict_for(ledger.shelf(key_of("ben"), TERMS), "total") is None


def test_p6_what_is_old_or_was_idle_for_long_is_due(ledger: Ledger) -> None:
    old, idle = opened(ledger, key_of("ann"), close_at=100.0), opened(ledger, key_of("ben"), now=50.0)
    assert ledger.due(100.0) == []
    assert ledger.due(101.0) == [old]
    assert ledger.due(349.0) == []
    assert ledger.due(350.0) == [idle]


def test_p6_what_grew_old_while_it_was_lent_is_closed_as_it_comes_home(ledger: Ledger) -> None:
    session = opened(ledger, key_of(), close_at=100.0)
    lease = taken(ledger, key_of())
    assert ledger.give_back(lease, 101.0) is session


def test_p9_drain_ends_what_is_idle_now_and_the_rest_as_it_comes_home(ledger: Ledger) -> None:
    lent, idle, elsewhere = (opened(ledger, key) for key in (key_of("ann"), key_of("ben"), key_of("cat", "files")))
    lease = taken(ledger, key_of("ann"))
    assert ledger.drain("crm") == [idle]
    assert not lent.closed and warm(ledger, key_of("cat", "files"), 0.0) is not None
    assert ledger.give_back(lease, 0.0) is lent
    assert elsewhere.state == "leased"


@pytest.mark.parametrize("whole_upstream", [True, False])
def test_p9_what_was_being_opened_when_it_was_drained_is_lent_to_nobody_new(ledger: Ledger, whole_upstream: bool) -> None:
    shelf = ledger.shelf(key_of(), TERMS)
    before = ledger.generation(shelf)
    ledger.reserve(shelf)
    ledger.drain("crm") if whole_upstream else ledger.end(key_of())
    inner = FakeSession(FakeUpstream(), key_of(), 0)
    session = PooledSession(inner, AsyncExitStack(), "", "", TransportType.STREAMABLE_HTTP)
    ledger.opened(shelf, session, before, 1e9, 0.0)
    assert warm(ledger, key_of(), 0.0) is None
    assert ledger.spoiled(shelf, 0.0) == [session]


def test_p12_only_a_session_that_idled_for_long_is_to_be_probed(ledger: Ledger) -> None:
    session = opened(ledger, key_of())
    shelf = ledger.shelves[key_of()]
    assert ledger.to_probe(shelf, 60.0) is None
    assert warm(ledger, key_of(), 61.0) is None
    lease = ledger.to_probe(shelf, 61.0)
    assert lease is not None and shelf.probing == {session}
    assert ledger.probed(lease, 61.0) is None
    assert taken(ledger, key_of(), 61.0).pooled is session and not shelf.probing


def test_p12_the_dead_take_their_elders_with_them(ledger: Ledger) -> None:
    elder, dead = opened(ledger, key_of(), 0.0), opened(ledger, key_of(), 1.0)
    lease = ledger.to_probe(ledger.shelves[key_of()], 100.0)
    assert lease is not None and lease.pooled is dead
    assert ledger.found_dead(lease, 100.0) == [elder, dead]
    assert ledger.reservations.total == 2
    assert ledger.found_dead(lease, 100.0) == []


def test_a_session_closed_under_its_holder_is_given_back_without_harm(ledger: Ledger) -> None:
    session = opened(ledger, key_of())
    lease = taken(ledger, key_of())
    assert ledger.abandon_leased() == [session]
    ledger.gone(session)
    assert ledger.found_dead(lease, 0.0) == [] and lease.released
    assert ledger.reservations.total == 0 and not ledger.shelves


def test_a_single_use_session_is_closed_as_it_comes_home(ledger: Ledger) -> None:
    session = opened(ledger, key_of(), terms=TERMS._replace(single_use=True))
    assert ledger.give_back(taken(ledger, key_of()), 0.0) is session
