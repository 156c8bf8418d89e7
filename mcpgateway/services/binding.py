"""Where a conversation's calls to one upstream go: the pool key, the credential, and how such a session is opened."""

from __future__ import annotations

from mcpgateway.auth.credentials import Credential, Credentials
from mcpgateway.services.leasing import Want
from mcpgateway.services.upstream import Upstream
from mcpgateway.upstream.base import UpstreamSession

OF_ONE_STATE = frozenset({"bound", "principal"})
"""Policies under which the next call expects to find the state that the last one left."""


class Binding:
    """Made once per conversation and upstream, and again when the upstream, the credential's identity or the policy changes."""

    __slots__ = (
        "credential",
        "expects_state",
        "generation",
        "identity",
        "outdated",
        "policy",
        "renewed",
        "session",
        "shown_under",
        "upstream",
        "want",
    )

    def __init__(
        self, upstream: Upstream, credential: Credential, generation: int, want: Want, keeps_sessions: bool = True
    ) -> None:
        self.upstream = upstream
        self.identity = credential.identity
        self.generation = generation
        """Of the TLS files: others mean other sessions."""
        self.policy = upstream.policy
        self.want = want
        self.expects_state = keeps_sessions and upstream.policy in OF_ONE_STATE
        self.credential = credential
        """The one shown last. Its bytes may change with every call, its identity never."""
        self.session: UpstreamSession | None = None
        """The session of the last call."""
        self.shown_under: Credentials | None = None
        """Where the credential came from, if it stays the same for as long as that is in force."""
        self.outdated = False
        """Whether its caller is shown to the upstream under other headers by now."""
        self.renewed = False
        """Whether the state that earlier calls left is gone and the client has not been told."""

    def __repr__(self) -> str:
        return f"<Binding {self.policy} {self.want.key!r}>"

    def serves(self, upstream: Upstream, identity: str, generation: int) -> bool:
        """Whether calls to `upstream` under this identity still go here."""
        return (
            upstream is self.upstream
            and identity == self.identity
            and self.policy == upstream.policy
            and generation == self.generation
            and not self.outdated
        )

    def lasts(self, upstream: Upstream) -> bool:
        """Whether the next call goes here with the same credential, so that nothing need be looked up."""
        return (
            self.shown_under is upstream.credentials
            and upstream is self.upstream
            and self.policy == upstream.policy
            and not self.outdated
        )

    def show(self, credential: Credential, upstream: Upstream) -> None:
        """Calls are sent with this credential from now on."""
        self.credential = credential
        # TLS files may change under their names, and must be looked at each time.
        lasts = upstream.credentials.lasting and upstream.config.tls is None
        self.shown_under = upstream.credentials if lasts else None

    @property
    def kept(self) -> bool:
        """Whether the session is the one that this conversation goes on in: it may be alone in it, or with others of its
        principal."""
        return self.expects_state

    @property
    def own(self) -> bool:
        """Whether the sessions are this conversation's alone, so that they end with it."""
        return self.policy == "bound"

    def use(self, session: UpstreamSession) -> bool:
        """A call runs in `session` now. False if that is not the one whose state it must expect."""
        before, self.session = self.session, session
        if before is None or before is session or not before.stateful or not self.expects_state:
            return True
        self.renewed = True
        return False

    def succeed(self, old: Binding) -> None:
        """Take the place of `old`: what was left in its session is lost, and not forgotten."""
        if old.identity == self.identity or old.outdated or old.upstream is not self.upstream:
            self.session = old.session
            self.renewed = old.renewed
