"""Where a conversation's calls to one upstream go: the pool key, and how such a session is opened."""

from __future__ import annotations

from mcpgateway.services.leasing import Want
from mcpgateway.upstream.base import UpstreamSession


class Binding:
    """Made once per conversation and upstream, and again when the credential's identity or the sharing policy changes."""

    __slots__ = ("identity", "policy", "session", "want")

    def __init__(self, identity: str, policy: str, want: Want) -> None:
        self.identity = identity
        self.policy = policy
        self.want = want
        self.session: UpstreamSession | None = None
        """The session opened last, for what must be done to it outside calls: listening, mostly."""

    def __repr__(self) -> str:
        return f"<Binding {self.policy} {self.want.key!r}>"

    @property
    def own(self) -> bool:
        """Whether the sessions are this conversation's alone, so that they end with it."""
        return self.policy == "bound"
