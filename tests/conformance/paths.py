"""Which client generation meets which server generation, and what is compared with what."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.conformance import expected, processes, suite
from tests.conformance.suite import Difference, Verdicts

LEGACY = ("2025-06-18", "2025-11-25")
MODERN = ("2026-07-28",)


@dataclass(frozen=True)
class ServerPath:
    """The suite speaks `revisions` to the fixture `direct`, and through the gateway to the fixture `upstream`."""

    name: str
    revisions: tuple[str, ...]
    direct: str
    upstream: str


SERVER_PATHS = (
    ServerPath("legacy-to-legacy", LEGACY, direct="legacy", upstream="legacy"),
    ServerPath("modern-to-modern", MODERN, direct="dual", upstream="dual"),
    ServerPath("legacy-to-modern", LEGACY, direct="dual", upstream="modern"),
    ServerPath("modern-to-legacy", MODERN, direct="dual", upstream="legacy"),
)

CLIENT_PATH = "client"
CLIENT_SCENARIOS = (
    ("initialize", "2025-11-25"),
    ("tools_call", "2025-11-25"),
    ("tools_call", "2026-07-28"),
    ("elicitation-sep1034-client-defaults", "2025-11-25"),
    ("sse-retry", "2025-11-25"),
    ("json-schema-2020-12-preservation", "2025-11-25"),
    ("json-schema-2020-12-preservation", "2026-07-28"),
    ("request-metadata", "2026-07-28"),
    ("sep-2322-client-request-state", "2026-07-28"),
    ("http-standard-headers", "2026-07-28"),
    ("http-custom-headers", "2026-07-28"),
    ("http-invalid-tool-headers", "2026-07-28"),
    ("json-schema-ref-no-deref", "2026-07-28"),
)


@dataclass
class Leg:
    """One comparison of a path."""

    path: str
    what: str
    direct: Verdicts
    through: Verdicts
    lost: list[Difference] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lost = suite.differences(self.direct, self.through)


@dataclass
class Outcome:
    """What became of the legs of one path, against what is expected of them."""

    path: str
    legs: list[Leg]
    reasons: dict[str, str]

    @property
    def surprises(self) -> list[Difference]:
        """Losses that nobody expects."""
        return [loss for leg in self.legs for loss in leg.lost if loss.name not in self.reasons]

    @property
    def faults(self) -> list[str]:
        """What fails without a gateway, too: the fixture or the machine is wrong, and nothing can be said of these checks."""
        found = [(leg.what, name, verdict) for leg in self.legs for name, verdict in leg.direct.items()]
        return [f"{what} {name}: {verdict.message}" for what, name, verdict in found if verdict.status in suite.BAD]

    @property
    def stale(self) -> list[str]:
        """Expected losses that are none."""
        return sorted({*self.reasons} - {loss.name for leg in self.legs for loss in leg.lost})


class Runs:
    """The runs of the suite, each against the same fixture and revision made only once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._direct: dict[tuple[str, str], Verdicts] = {}
        self._urls: dict[str, str] = {}
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Runs:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def legs(self, path: ServerPath) -> AsyncIterator[Leg]:
        """Run a path's legs, one after the other: some scenarios count milliseconds."""
        upstream = await self._url(path.upstream)
        for revision in path.revisions:
            yield await self._settled(partial(self._leg, path, upstream, revision))

    async def _leg(self, path: ServerPath, upstream: str, revision: str) -> Leg:
        direct = await self._run_direct(path.direct, revision)
        folder = self._new(f"{path.name}-{revision}")
        async with processes.gateway(upstream, folder) as url:
            return Leg(path.name, revision, direct, await suite.check_server(url, revision, folder))

    async def _settled(self, run: Callable[[], Awaitable[Leg]]) -> Leg:
        """A leg, run once more where something differs that should not.

        Some scenarios count milliseconds, and a busy machine counts otherwise: a fault of ours differs the second time, too.
        """
        leg = await run()
        outcome = Outcome(leg.path, [leg], expected.read(leg.path))
        if not (outcome.surprises or outcome.faults):
            return leg
        self._direct.clear()
        return await run()

    async def client_legs(self, scenarios: Iterable[tuple[str, str]] = CLIENT_SCENARIOS) -> AsyncIterator[Leg]:
        """Run the scenarios for clients, direct and through."""
        for scenario, revision in scenarios:
            yield await self._settled(partial(self._client_leg, scenario, revision))

    async def _client_leg(self, scenario: str, revision: str) -> Leg:
        folders = [self._new(f"client-{scenario}-{revision}-{how}") for how in ("direct", "through")]
        direct = await suite.check_client(scenario, revision, folders[0], through=False)
        through = await suite.check_client(scenario, revision, folders[1], through=True)
        return Leg(CLIENT_PATH, f"{scenario} {revision}", direct, through)

    async def _run_direct(self, fixture: str, revision: str) -> Verdicts:
        key = (fixture, revision)
        if key not in self._direct:
            folder = self._new(f"{fixture}-{revision}")
            self._direct[key] = await suite.check_server(await self._url(fixture), revision, folder)
        return self._direct[key]

    async def _url(self, fixture: str) -> str:
        if fixture not in self._urls:
            self._urls[fixture] = await self._stack.enter_async_context(processes.fixture(fixture))
        return self._urls[fixture]

    def _new(self, name: str) -> Path:
        folder = self._folder / name
        if folder.exists():
            folder = self._folder / f"{name}-again"
        folder.mkdir(parents=True)
        return folder


def outcomes(legs: Sequence[Leg]) -> list[Outcome]:
    """By path, in the order of the legs."""
    paths = dict.fromkeys(leg.path for leg in legs)
    return [Outcome(path, [leg for leg in legs if leg.path == path], expected.read(path)) for path in paths]
