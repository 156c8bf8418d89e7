"""A session as the pool knows it."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from mcpgateway.pool.session import Lease, PooledSession, TransportType


def made() -> PooledSession:
    url = "http://user:s3cret@crm.test/mcp?key=s3cret"
    return PooledSession(object(), AsyncExitStack(), url, "ab12" * 16, TransportType.STREAMABLE_HTTP, {"X-Api-Key": "s3cret"})


def test_a_session_goes_from_idle_to_leased_to_retired_to_closed() -> None:
    session, states = made(), []
    for name, value in (("leases", 0), ("leases", 1), ("retired", True), ("closed", True)):
        setattr(session, name, value)
        states.append(session.state)
    assert states == ["idle", "leased", "retired", "closed"]


def test_p21_no_repr_shows_a_secret() -> None:
    session = made()
    assert repr(session) == "<PooledSession streamablehttp http://crm.test/mcp ab12ab12 idle, 0 leases>"
    assert repr(Lease(session, 0.0)) == f"<Lease held of {session!r}>"


def test_a_lease_says_that_it_was_released() -> None:
    lease = Lease(made(), 7.0)
    lease.released = True
    assert repr(lease).startswith("<Lease released of ") and lease.began_at == 7.0


def test_a_session_that_no_pool_has_stands_on_no_shelf() -> None:
    with pytest.raises(AttributeError):
        assert made().shelf
