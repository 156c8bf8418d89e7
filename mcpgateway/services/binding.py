"""Where a conversation's calls to one upstream go: the pool key, and how such a session is opened."""

from __future__ import annotations

from mcpgateway.services.leasing import Want
from mcpgateway.services.upstream import Upstream
from mcpgateway.upstream.base import UpstreamSession


class Binding:
    """Made once per conversation and upstream, and again when the upstream, the credential's identity or the policy changes."""

    __slots__ = ("_identity", "_upstream", "policy", "session", "want")

    def __init__(self, upstream: Upstream, identity: str, want: Want) -> None:
        self._upstream = upstream
        self._identity = identity
        self.policy = upstream.policy
        self.want = want
        self.session: UpstreamSession | None = None
        """The session opened last, for what must be done to it outside calls: listening, mostly."""

    def serves(self, upstream: Upstream, identity: str) -> bool:
        """Whether calls to `upstream` under this identity still go here."""
        return upstream is self._upstream and identity == self._identity and self.policy == upstream.policy

    def __repr__(self) -> str:
        return f"<Binding {self.policy} {self.want.key!r}>"

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def own(self) -> bool:
        """Whether the sessions are this conversation's alone, so that they end with it."""
        return self.policy == "bound"
