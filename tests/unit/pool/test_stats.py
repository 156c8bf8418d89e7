"""The figures."""

from __future__ import annotations

from mcpgateway.pool.stats import PoolStats


def test_every_figure_begins_at_nothing_and_is_shown_by_its_name() -> None:
    stats = PoolStats()
    assert set(stats.as_dict()) == set(PoolStats.__slots__) and not any(stats.as_dict().values())
    stats.hits += 2
    assert stats.as_dict()["hits"] == 2 and "'hits': 2" in repr(stats)
