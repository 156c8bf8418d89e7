"""Reservations."""

from __future__ import annotations

from mcpgateway.pool.limits import Limits, Reservations
from tests.fakes.upstream_session import key_of


def test_p4_each_scope_is_full_at_its_own_limit() -> None:
    places = Reservations(Limits(total=4, per_upstream=3, per_principal=2))
    taken = [key_of("ann"), key_of("ann"), key_of("ben")]
    for key in taken:
        assert places.full(key) is None
        places.take(key)
    assert places.full(key_of("ann", "files")) == "principal"
    assert places.full(key_of("cat")) == "upstream"
    assert places.full(key_of("cat", "files")) is None
    places.take(key_of("cat", "files"))
    assert places.full(key_of("dan", "else")) == "total"


def test_p5_what_is_given_back_is_free_again_and_nothing_is_remembered() -> None:
    places = Reservations(Limits(total=1))
    for number in range(100):
        key = key_of(f"user-{number}", f"up-{number}")
        places.take(key)
        assert places.full(key) == "total" and places.of_upstream(f"up-{number}") == 1
        places.give_back(key)
        assert places.full(key) is None
    assert repr(places) == "<Reservations 0/1, 0 principals>"
    assert not places._upstreams and not places._principals and places.of_upstream("up-1") == 0


def test_p16_asking_whether_there_is_room_remembers_nothing() -> None:
    places = Reservations(Limits())
    for number in range(100):
        places.full(key_of(f"user-{number}", f"up-{number}"))
    assert not places._upstreams and not places._principals
