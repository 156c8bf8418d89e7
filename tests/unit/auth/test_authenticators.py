"""What tells whose a token is, where no issuer is configured."""

from __future__ import annotations

import pytest

from mcpgateway.auth.authenticators import Authenticators, NoneIssued
from mcpgateway.auth.tokens import StaticTokens, new_token
from mcpgateway.config.values import TokenConfig
from mcpgateway.errors import InvalidToken


@pytest.mark.parametrize("token", [b"", b"nobody's", b"eyJhbGciOiJub25lIn0.e30."])
async def test_without_issuers_only_static_tokens_let_anybody_in(token: bytes) -> None:
    known, hashed = new_token()
    tokens = Authenticators(StaticTokens([TokenConfig("alice", hashed.removeprefix("sha256:"))]), NoneIssued())
    principal = tokens.known(known.encode())
    assert principal is not None and principal.subject == "alice"
    assert tokens.known(token) is None
    with pytest.raises(InvalidToken):
        await tokens.verify(token)
