"""Changed headers of an upstream come into force: callers shown under others go on in new sessions, the rest as before."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mcpgateway.auth.credentials import Credentials
from mcpgateway.auth.principals import Principal
from mcpgateway.config import ServerConfig
from mcpgateway.errors import CredentialMissing
from mcpgateway.services.announcements import LIST_CHANGES
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.leasing import SessionPool
from mcpgateway.services.upstream import Upstream

# Not `forward_headers`: while they stay the same, whoever is shown under the same configured headers has the same identity.
_HEADERS = ("headers", "credentials", "credentials_file", "credentials_required")


def is_rotation(old: ServerConfig, new: ServerConfig) -> bool:
    """Whether two entries differ in nothing but the headers that the server is sent, for all or for single callers."""
    return old != new == msgspec.structs.replace(old, **{name: getattr(new, name) for name in _HEADERS})


def rotate(
    upstream: Upstream,
    config: ServerConfig,
    credentials: Credentials,
    conversations: Iterable[Conversation],
    pool: SessionPool,
) -> bool:
    """Show callers under `credentials` from now on. True if the gateway itself is shown under others than before.

    Sessions of those among `conversations` who are shown under others, or not at all any more, take no new calls and are
    closed, those in use when their calls have ended.
    """
    own = _identity(upstream, None)
    before = [(conversation, _identity(upstream, conversation.principal)) for conversation in conversations]
    upstream.show_under(config, credentials)
    for conversation, identity in before:
        if _identity(upstream, conversation.principal) != identity:
            _part(upstream, conversation, pool)
    return _identity(upstream, None) != own


def _identity(upstream: Upstream, principal: Principal | None) -> str | None:
    """As whom the upstream knows a caller who sends no headers of its own; None where it is not shown at all."""
    try:
        return upstream.credentials.identity(principal, ())
    except CredentialMissing:
        return None


def _part(upstream: Upstream, conversation: Conversation, pool: SessionPool) -> None:
    bindings = [binding for binding in conversation.bindings.values() if binding.upstream is upstream]
    if not bindings:
        return
    pool.end(binding.want.key for binding in bindings)
    for binding in bindings:
        # It serves no calls from now on, and the one that takes its place says which state was lost.
        binding.outdated = True
    for capability in LIST_CHANGES.values():
        if upstream.offers(capability):
            conversation.lists_changed(capability)
