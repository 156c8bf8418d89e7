"""Figures for Prometheus. Counting is plain arithmetic on plain objects; text is made only when somebody looks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds in seconds."""

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class UpstreamFigures:
    """One upstream's calls: how many, how long, and which errors. One call costs one bisection and three additions."""

    __slots__ = ("buckets", "calls", "errors", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.errors: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<UpstreamFigures {self.calls} calls, {self.errors.total()} errors>"

    def count(self, seconds: float) -> None:
        self.calls += 1
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1


class Figures(Collector):
    """Everything that is counted in one gateway."""

    def __init__(self) -> None:
        self.upstreams: dict[str, UpstreamFigures] = {}
        self.refusals: Counter[str] = Counter()
        self.pool: Callable[[], dict[str, int]] = dict
        self.client_sessions: Callable[[], int] = int
        self.parked_calls: Callable[[], int] = int
        self.listen_streams: Callable[[], int] = int
        self.upstream_states: Callable[[], Iterable[tuple[str, str]]] = tuple
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def __repr__(self) -> str:
        return f"<Figures of {len(self.upstreams)} upstreams>"

    def of(self, upstream: str) -> UpstreamFigures:
        """The figures of one upstream, begun if there are none."""
        return self.upstreams.setdefault(upstream, UpstreamFigures())

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        yield from self._of_upstreams()
        yield from self._of_pool()
        refused = CounterMetricFamily(
            "mcpgateway_refused_requests", "Requests refused at the door, by error class", labels=["error"]
        )
        for error, number in self.refusals.items():
            refused.add_metric([error], number)
        yield refused
        yield GaugeMetricFamily("mcpgateway_client_sessions", "Downstream sessions open now", self.client_sessions())
        yield GaugeMetricFamily(
            "mcpgateway_parked_calls", "Calls that wait for the answer of a client without a session", self.parked_calls()
        )
        yield GaugeMetricFamily(
            "mcpgateway_listen_streams", "Streams on which clients without a session listen", self.listen_streams()
        )

    def _of_upstreams(self) -> Iterable[Metric]:
        calls = CounterMetricFamily(
            "mcpgateway_calls",
            "Calls, and the gateway's own requests, however they ended",
            labels=["upstream"],
        )
        errors = CounterMetricFamily(
            "mcpgateway_call_errors", "Calls that failed, by error class", labels=["upstream", "error"]
        )
        times = HistogramMetricFamily("mcpgateway_call_seconds", "From the call's arrival to its answer", labels=["upstream"])
        up = GaugeMetricFamily("mcpgateway_upstream_up", "1 while the upstream is ready", labels=["upstream", "state"])
        for name, figures in self.upstreams.items():
            calls.add_metric([name], figures.calls)
            times.add_metric([name], _cumulative(figures.buckets), figures.seconds)
            for error, number in figures.errors.items():
                errors.add_metric([name, error], number)
        for name, state in self.upstream_states():
            up.add_metric([name, state], 1 if state == "ready" else 0)
        return calls, errors, times, up

    def _of_pool(self) -> Iterable[Metric]:
        gauges = {"pool_key_count", "open", "idle", "leased", "opening", "closing", "waiting"}
        for name, value in self.pool().items():
            if name in gauges:
                yield GaugeMetricFamily(f"mcpgateway_pool_{name}", f"Upstream sessions in the pool: {name}", value)
            else:
                yield CounterMetricFamily(f"mcpgateway_pool_{name}", f"Since the start: {name}", value)


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total = 0
    pairs = []
    for bound, number in zip([*map(str, BUCKETS), "+Inf"], buckets, strict=True):
        total += number
        pairs.append((bound, float(total)))
    return pairs
