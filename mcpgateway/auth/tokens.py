"""Static bearer tokens: the configuration knows only their SHA-256."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from hashlib import sha256

from mcpgateway.auth.principals import Principal
from mcpgateway.config.values import STATIC_ISSUER, TokenConfig

ISSUER = STATIC_ISSUER
_PREFIX = "mcpgw_"  # so that scanners for leaked secrets, and people, can tell what it is


class StaticTokens:
    """The tokens that are let in, each with the principal it stands for."""

    def __init__(self, tokens: Iterable[TokenConfig]) -> None:
        self._known = {
            digest: (digest, Principal(ISSUER, token.name, token.tenant))
            for token in tokens
            for digest in (bytes.fromhex(token.hash),)
        }

    def __repr__(self) -> str:
        return f"<StaticTokens {len(self._known)}>"

    def principal_of(self, token: bytes) -> Principal | None:
        """Whose token this is, or None.

        The look-up goes by the digest of what was presented. Its timing could at most tell about digests, and nobody can
        choose a token so that its SHA-256 comes near a known one; the comparison that decides takes constant time.
        """
        digest = sha256(token).digest()
        known, principal = self._known.get(digest, (b"", None))
        return principal if hmac.compare_digest(known, digest) else None


def new_token() -> tuple[str, str]:
    """A new random token, and what to write into the configuration for it."""
    token = _PREFIX + secrets.token_urlsafe(32)
    return token, f"sha256:{sha256(token.encode()).hexdigest()}"
