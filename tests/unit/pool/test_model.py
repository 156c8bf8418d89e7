"""The whole pool under random use, checked after every step.

The ordinary run takes the same 20,000 steps each time. A longer one takes others each time: `POOL_MODEL_STEPS=1000000`
before the pytest command runs about a million.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from mcpgateway.errors import AuthRefused, ConnectFailed, ConnectionLost, PoolError, RpcError, SessionLost, UpstreamError
from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.limits import Limits
from mcpgateway.pool.session import Lease
from mcpgateway.pool.shelf import Shelf
from mcpgateway.runtime import Sweep
from mcpgateway.services.closing import CLOSE_SECONDS
from mcpgateway.services.mcp_session_pool import MCPSessionPool
from tests.fakes.clock import FakeClock
from tests.fakes.upstream_session import FakeUpstream, Gate, key_of, quiet

ORDINARY_STEPS = 20_000
STEPS_AT_A_TIME = 50
LIMITS = Limits(total=5, per_upstream=4, per_principal=3)
AGED = Terms(max_sessions=2, max_age_seconds=100.0, max_idle_seconds=50.0, probe_after_seconds=10.0)
TERMS = {
    "exclusive": AGED,
    "shared": AGED._replace(exclusive=False),
    "once": AGED._replace(single_use=True, spares=1),
}
KEYS = [key_of(user, upstream, kind) for user in ("ann", "ben", "cat") for upstream in ("crm", "files") for kind in TERMS]

keys = st.sampled_from(KEYS)
picks = st.integers(0, 7)
turns = st.sampled_from((0, 0, 1, 2, 3, 25))
outcomes = st.sampled_from(
    (
        None,
        None,
        RpcError.of(-32000, "no"),
        AuthRefused("crm", "401", status=401),
        ConnectionLost("crm", "cut"),
        SessionLost("crm", "404"),
        asyncio.CancelledError(),
    )
)
troubles = st.sampled_from((None, None, None, ConnectFailed("crm", "nobody"), AuthRefused("crm", "401", status=401)))


class PoolModel(RuleBasedStateMachine):
    """Callers who ask, leave and give back in any order, over an upstream that does as it pleases."""

    steps_taken = 0

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.sweep = Sweep(self.clock)
        self.upstream = FakeUpstream()
        self.gates = (self.upstream.opening, self.upstream.pinging, self.upstream.closing)
        for gate in self.gates:
            gate.shut = True
        self.pool = MCPSessionPool(sweep=self.sweep, limits=LIMITS, wait_seconds=30.0)
        self.ledger = self.pool._ledger
        self.wants = {key: self.upstream.want(key, TERMS[key.partition]) for key in KEYS}
        """Kept, as conversations keep theirs: each remembers where the pool found what it wants."""
        self.callers: dict[asyncio.Task[Lease], PoolKey] = {}
        self.leases: list[Lease] = []
        self.returned: list[Lease] = []

    def run(self, action: Callable[[], object], turns: int) -> None:
        """Do something inside the loop, and let the loop turn so often: rarely until nothing more happens by itself."""

        async def step() -> None:
            action()
            await quiet(turns)
            self.collect()

        type(self).steps_taken += 1
        self.loop.run_until_complete(step())

    def collect(self) -> None:
        for caller in [caller for caller in self.callers if caller.done()]:
            key = self.callers.pop(caller)
            if caller.cancelled():
                continue
            error = caller.exception()
            if error is None:
                self.take(caller.result(), key)
            else:
                assert isinstance(error, PoolError | UpstreamError), repr(error)

    def take(self, lease: Lease, key: PoolKey) -> None:
        assert lease.session.key == key, "a session crossed a key"
        assert lease.pooled.uses == 1 or key.partition != "once", "a session for one use was used again"
        self.leases.append(lease)

    @rule(key=keys, number=st.sampled_from((1, 1, 1, 3)), turns=turns)
    def ask(self, key: PoolKey, number: int, turns: int) -> None:
        def begin() -> None:
            for _ in range(number):
                self.callers[self.loop.create_task(self.pool.lease(self.wants[key]))] = key

        self.run(begin, turns)

    @rule(key=keys)
    def take_what_is_warm(self, key: PoolKey) -> None:
        def warm() -> None:
            lease = self.pool.warm(self.wants[key])
            if lease is not None:
                self.take(lease, key)

        self.run(warm, 0)

    @precondition(lambda self: self.leases)
    @rule(pick=picks, outcome=outcomes, turns=turns)
    def give_back(self, pick: int, outcome: BaseException | None, turns: int) -> None:
        lease = self.leases.pop(pick % len(self.leases))
        self.returned.append(lease)
        self.run(lambda: self.pool.give_back(lease, outcome), turns)

    @precondition(lambda self: self.returned)
    @rule(pick=picks, outcome=outcomes)
    def give_back_again(self, pick: int, outcome: BaseException | None) -> None:
        self.run(lambda: self.pool.give_back(self.returned[-1 - pick % len(self.returned)], outcome), 0)

    @precondition(lambda self: self.callers)
    @rule(pick=picks, turns=turns)
    def leave(self, pick: int, turns: int) -> None:
        caller = list(self.callers)[pick % len(self.callers)]
        self.run(caller.cancel, turns)

    @precondition(lambda self: self.callers and self.leases)
    @rule(pick=picks, lease_first=st.booleans(), turns=turns)
    def leave_as_a_session_comes_home(self, pick: int, lease_first: bool, turns: int) -> None:
        caller = list(self.callers)[pick % len(self.callers)]
        lease = self.leases.pop(pick % len(self.leases))
        self.returned.append(lease)

        def both() -> None:
            if not lease_first:
                caller.cancel()
            self.pool.give_back(lease)
            caller.cancel()

        self.run(both, turns)

    @precondition(lambda self: self.upstream.opening.held)
    @rule(trouble=troubles, turns=turns)
    def an_opening_ends(self, trouble: Exception | None, turns: int) -> None:
        self.let(self.upstream.opening, trouble, turns)

    @precondition(lambda self: self.upstream.opening.held)
    @rule(turns=turns)
    def a_session_is_born_dead(self, turns: int) -> None:
        self.upstream.born_dead = True
        self.let(self.upstream.opening, None, 3)
        self.upstream.born_dead = False

    @precondition(lambda self: self.upstream.pinging.held)
    @rule(trouble=troubles, turns=turns)
    def a_probe_ends(self, trouble: Exception | None, turns: int) -> None:
        self.let(self.upstream.pinging, trouble, turns)

    @precondition(lambda self: self.upstream.closing.held)
    @rule(trouble=troubles, turns=turns)
    def a_closing_ends(self, trouble: Exception | None, turns: int) -> None:
        self.let(self.upstream.closing, trouble, turns)

    def let(self, gate: Gate, trouble: Exception | None, turns: int) -> None:
        self.run(lambda: gate.let(None if trouble is None else trouble.with_traceback(None)), turns)

    @precondition(lambda self: self.upstream.sessions)
    @rule(pick=picks, turns=turns)
    def a_wire_breaks(self, pick: int, turns: int) -> None:
        session = self.upstream.sessions[-1 - pick % len(self.upstream.sessions)]
        session.closed = True
        self.run(lambda: None, turns)

    @rule(seconds=st.sampled_from((0.1, CLOSE_SECONDS, 11.0, 31.0)), turns=turns)
    def time_passes(self, seconds: float, turns: int) -> None:
        def tick() -> None:
            self.clock.advance(seconds)
            self.sweep.expire_due()

        self.run(tick, turns)

    @rule(turns=turns)
    def reap(self, turns: int) -> None:
        self.run(self.pool.reap, turns)

    @rule(upstream=st.sampled_from(("crm", "files")), turns=turns)
    def drain(self, upstream: str, turns: int) -> None:
        self.run(lambda: self.pool.drain(upstream), turns)

    @rule(chosen=st.lists(keys, max_size=2), turns=turns)
    def a_conversation_ends(self, chosen: list[PoolKey], turns: int) -> None:
        self.run(lambda: self.pool.end(chosen), turns)

    @invariant()
    def no_session_is_in_two_hands(self) -> None:
        holders = Counter(lease.pooled for lease in self.leases)
        for pooled, number in holders.items():
            assert number == 1 or pooled.key is None or pooled.key.partition == "shared", f"{number} hold {pooled!r}"
            assert not pooled.closed, "a session was closed under its holder"

    @invariant()
    def every_place_is_accounted_for(self) -> None:
        places: Counter[PoolKey] = Counter(pooled.shelf.key for pooled in self.ledger.closing)
        for key, shelf in self.ledger.shelves.items():
            places[key] += len(shelf.busy) + len(shelf.idle) + shelf.opening
            assert shelf.size == places[key], repr(shelf)
            assert not shelf.empty or key in self.callers.values(), f"kept for nobody: {shelf!r}"
            assert shelf.size <= 2 or key.partition == "shared", f"more than its key allows: {shelf!r}"
        reservations = self.ledger.reservations
        assert reservations.total == sum(places.values()) <= LIMITS.total
        assert self.upstream.open_now <= LIMITS.total
        users, upstreams = Counter[str](), Counter[str]()
        for key, number in places.items():
            users[key.user] += number
            upstreams[key.upstream] += number
        assert +users == reservations._principals and max(users.values(), default=0) <= LIMITS.per_principal
        assert +upstreams == reservations._upstreams and max(upstreams.values(), default=0) <= LIMITS.per_upstream

    @invariant()
    def whoever_waits_waits_for_a_reason(self) -> None:
        for shelf in self.ledger.shelves.values():
            if any(not waiter.done() for waiter in shelf.waiters):
                assert not shelf.idle or self._is_served_sooner(shelf), f"somebody waits while a session is idle: {shelf!r}"
                assert shelf.opening or shelf.probing or self._is_held_up(shelf), f"nothing will come: {shelf!r}"

    def _is_served_sooner(self, shelf: Shelf) -> bool:
        """Whether a session for each who waits is on its way, and the idle ones would have to be probed first."""
        youngest = max(session.idle_since for session in shelf.idle)
        return shelf.wanted() <= 0 and self.clock.now() - youngest > shelf.terms.probe_after_seconds

    def _is_held_up(self, shelf: Shelf) -> bool:
        if shelf.blocked_by == "key":
            return shelf.size >= shelf.terms.max_sessions
        reservations, key = self.ledger.reservations, shelf.key
        full = {
            "total": reservations.total == LIMITS.total,
            "upstream": reservations._upstreams[key.upstream] == LIMITS.per_upstream,
            "principal": reservations._principals[key.user] == LIMITS.per_principal,
        }
        return shelf in self.pool._blocked.gate_of and shelf.blocked_by is not None and full[shelf.blocked_by]

    @invariant()
    def idle_sessions_make_way_for_those_who_wait_for_a_place(self) -> None:
        for shelf, (scope, _) in self.pool._blocked.gate_of.items():
            if shelf.wanted() > shelf.evicting:
                for other in self.ledger.shelves.values():
                    together = {
                        "total": True,
                        "upstream": other.key.upstream == shelf.key.upstream,
                        "principal": other.key.user == shelf.key.user,
                    }
                    assert not (other.idle and together[scope]), f"{other!r} keeps {shelf!r} waiting"

    def teardown(self) -> None:
        try:
            self.loop.run_until_complete(self.come_to_rest())
        finally:
            self.sweep.close()
            self.loop.close()

    async def come_to_rest(self) -> None:
        """Let everything happen that can: then every caller was served or told, and nothing is left of anything."""
        for gate in self.gates:
            gate.open_up()
        async with asyncio.timeout(20):
            while self.callers or self.leases:
                for lease in self.leases:
                    self.pool.give_back(lease)
                self.leases.clear()
                await quiet(3)
                self.collect()
            await self.pool.close_all()
        await quiet()
        assert self.ledger.reservations.total == self.upstream.open_now == 0
        assert not self.ledger.shelves and not self.ledger.closing and not self.ledger.idle_count
        assert not self.pool._blocked.gate_of and not self.pool._blocked._behind and not self.pool._work
        assert not self.ledger.reservations._principals and not self.ledger.reservations._upstreams
        assert len(self.sweep) == 0, repr(self.sweep._watched)
        assert all(session.ended == 1 for session in self.upstream.sessions)


def how_long(steps: int, **how: Any) -> settings:
    """Settings for about so many steps; an example takes fewer than it might."""
    return settings(
        max_examples=steps // 40,
        stateful_step_count=STEPS_AT_A_TIME,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **how,
    )


def test_whatever_callers_and_upstreams_do_the_pool_keeps_its_promises() -> None:
    steps = int(os.environ.get("POOL_MODEL_STEPS", "0"))
    PoolModel.steps_taken = 0
    if steps:
        run_state_machine_as_test(PoolModel, settings=how_long(steps, print_blob=True))
    else:
        run_state_machine_as_test(PoolModel, settings=how_long(ORDINARY_STEPS, derandomize=True, database=None))
    assert PoolModel.steps_taken >= (steps or ORDINARY_STEPS)
