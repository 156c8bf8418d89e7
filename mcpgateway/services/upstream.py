"""One upstream as the services know it: where it is, who may be shown to it, how its sessions are shared, how it fares."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from mcpgateway.auth.credentials import Credentials
from mcpgateway.auth.principals import Principal
from mcpgateway.config import ServerConfig
from mcpgateway.errors import CredentialMissing
from mcpgateway.metrics import UpstreamFigures
from mcpgateway.pool.breaker import Breaker
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import Call
from mcpgateway.upstream.base import Target, Welcome

REMEMBERED = 1024


class State(StrEnum):
    """How an upstream fares; each comes with a reason that a person can act on."""

    CONNECTING = "connecting"
    READY = "ready"
    DEGRADED = "degraded"
    AUTH_REQUIRED = "auth_required"
    UNREACHABLE = "unreachable"
    INCOMPATIBLE = "incompatible"
    DISABLED = "disabled"


class UpstreamReport(msgspec.Struct, frozen=True):
    """What is known of an upstream at one moment."""

    name: str
    transport: str
    revision: str
    state: str
    reason: str
    tools: int | None = None
    resources: int | None = None
    prompts: int | None = None
    handshake_ms: float | None = None
    sessions: str = ""
    sessions_reason: str = ""

    @property
    def failed(self) -> bool:
        return self.state not in (State.READY, State.DISABLED)


class Upstream:
    """Built once per configured server. `policy` and `state` change as more becomes known."""

    def __init__(self, config: ServerConfig, credentials: Credentials, breaker: Breaker, figures: UpstreamFigures) -> None:
        self.config = config
        self.name = config.name
        self.slug = config.slug
        self.timeout_seconds = config.timeout_seconds
        self.on_session_loss = config.on_session_loss
        self.credentials = credentials
        self.target = Target(
            name=config.name,
            url=config.url,
            transport="stdio" if config.command else config.type,
            command=config.command,
            args=config.args,
            env=config.env,
            cwd=config.cwd,
            tls=config.tls,
            open_timeout_seconds=min(config.timeout_seconds, 30.0),
        )
        self.breaker = breaker
        self.figures = figures
        self.state = State.CONNECTING
        self.reason = "first connection is being made"
        self.welcome: Welcome | None = None
        self._welcomes: dict[tuple[str, bool], Welcome] = {}
        self._speaks_modern = False
        self.stateful: bool | None = None
        self.transport = self.target.transport
        self.handshake_ms: float | None = None
        self.policy, self.policy_reason = self._choose()

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {self.state}: {self.reason}>"

    def _choose(self) -> tuple[str, str]:
        if self.config.sessions != "auto":
            return self.config.sessions, "as configured"
        if self._speaks_modern:
            return (
                "bound",
                f"it speaks {revisions.NEWEST_MODERN}; each conversation has a session of its own, which there holds no state",
            )
        if self.stateful is False:
            return "stateless", "it gives its sessions no name, so it keeps no state in them"
        if self.stateful is None:
            return "bound", "not known yet whether it keeps state; taken to be so"
        return "bound", "its sessions may hold state, so each conversation has one of its own"

    def learned(self, welcome: Welcome, identity: str, *, modern: bool, stateful: bool, transport: str) -> Welcome:
        """A session was opened for a client of this generation: what it showed decides how sessions are shared from now on.

        The same welcome; where the server said what it had said before, the one object that is kept of both.
        """
        if self.welcome == welcome:
            welcome = self.welcome
        self.welcome = welcome
        self._welcomes[identity, modern] = welcome
        if len(self._welcomes) > REMEMBERED:
            del self._welcomes[next(iter(self._welcomes))]
        self.transport = transport
        self._speaks_modern = self._speaks_modern or revisions.is_modern(welcome.protocol_version)
        self.stateful = self.stateful or stateful
        self.policy, self.policy_reason = self._choose()
        return welcome

    def welcome_of(self, identity: str, *, modern: bool) -> Welcome | None:
        """What it said of itself to clients of this identity and generation; None while that is not known.

        A server that took a client of the other generation by bridging has nothing else to offer to this one.
        """
        known = self._welcomes.get((identity, modern))
        if known is None:
            other = self._welcomes.get((identity, not modern))
            known = other if other is not None and revisions.is_modern(other.protocol_version) == modern else None
        return known

    def show_under(self, config: ServerConfig, credentials: Credentials) -> None:
        """Show callers under other credentials from now on. `config` differs in nothing else from the one before."""
        self.config = config
        self.credentials = credentials

    def slot_of(self, conversation_id: str, call: Call) -> str:
        """Under which name a conversation's binding to this upstream is kept: one for all its calls, or one per value of
        the configured conversation key, where callers have no session that would tell their conversations apart."""
        key = self.config.conversation_key
        if not key or (conversation_id and self.policy != "principal"):
            return self.slug
        kind, _, name = key.partition(":")
        value = _meta_value(call, name) if kind == "meta" else _header_value(call, name.encode())
        return f"{self.slug}\n{value}" if value else self.slug

    def identity_of(self, principal: Principal | None, call: Call) -> str:
        """Who the caller is to this upstream, as a hash."""
        return self.credentials.identity(principal, call.client_headers)

    def offers(self, capability: str) -> bool:
        """Whether the server declared a capability to whoever asked last; True while it is not known. For nobody's eyes."""
        return self.welcome is None or capability in self.welcome.capabilities

    def shown_to(self, principal: Principal | None, call: Call) -> Welcome | None:
        """What it said of itself to this caller; None while that is not known. What it says to others may not be for them."""
        try:
            identity = self.identity_of(principal, call)
        except CredentialMissing:
            return None
        return self._welcomes.get((identity, False)) or self._welcomes.get((identity, True))

    def offers_to(self, principal: Principal | None, call: Call, capability: str) -> bool:
        """Whether the server declared a capability to this caller; True while it is not known."""
        welcome = self.shown_to(principal, call)
        return welcome is None or capability in welcome.capabilities

    def report(self, counts: dict[str, int | None]) -> UpstreamReport:
        """How it fares; `counts` says how many tools, resources and prompts it offers."""
        return UpstreamReport(
            name=self.name,
            transport=self.transport,
            revision=self.welcome.protocol_version if self.welcome is not None else "",
            state=self.state.value,
            reason=self.reason,
            tools=counts.get("tools"),
            resources=counts.get("resources"),
            prompts=counts.get("prompts"),
            handshake_ms=self.handshake_ms,
            sessions=self.policy,
            sessions_reason=self.policy_reason,
        )


def _header_value(call: Call, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in call.client_headers if key == name), "")


def _meta_value(call: Call, name: str) -> str:
    """The raw JSON of a `_meta` key: two values that differ never meet."""
    meta = call.params.get("_meta")
    return bytes(jsonrpc.object_of(meta).get(name, b"")).decode() if meta is not None else ""
