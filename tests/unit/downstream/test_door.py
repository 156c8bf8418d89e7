"""The door: Host, Origin, token."""

from __future__ import annotations

from hashlib import sha256

import pytest

from mcpgateway.auth.authenticators import Authenticators
from mcpgateway.auth.jwt import JwtTokens
from mcpgateway.auth.principals import ANONYMOUS
from mcpgateway.auth.tokens import StaticTokens
from mcpgateway.config.values import TokenConfig
from mcpgateway.downstream.door import Door
from mcpgateway.errors import Forbidden, Unauthenticated

LOCAL = Door(None, local=True, hosts=["mcp.example:8443"], origins=["https://app.example/"])
PUBLIC = Door(None, local=False, hosts=["mcp.example"])
ANYWHERE = Door(None, local=False)


def check(door: Door, host: str, origin: str | None = None) -> None:
    door.check_origin({b"host": host.encode()} | ({b"origin": origin.encode()} if origin is not None else {}))


@pytest.mark.parametrize(
    ("door", "host", "origin"),
    [
        (LOCAL, "localhost:4444", None),
        (LOCAL, "127.0.0.1", None),
        (LOCAL, "[::1]:4444", None),
        (LOCAL, "LocalHost:4444", None),
        (LOCAL, "mcp.example:8443", None),
        (LOCAL, "localhost", "http://localhost:6274"),
        (LOCAL, "localhost", "https://App.Example"),
        (PUBLIC, "mcp.example", None),
        (PUBLIC, "mcp.example:443", None),
        (PUBLIC, "mcp.example", "https://mcp.example"),
        (ANYWHERE, "whatever.example", None),
    ],
)
def test_our_own_names_and_allowed_origins_come_in(door: Door, host: str, origin: str | None) -> None:
    for _ in range(2):
        check(door, host, origin)


@pytest.mark.parametrize(
    ("door", "host", "origin"),
    [
        (LOCAL, "evil.example", None),
        (LOCAL, "", None),
        (LOCAL, "localhost.evil.example", None),
        (LOCAL, "127.0.0.1.evil.example", None),
        (LOCAL, "mcp.example:1", None),
        (LOCAL, "localhost", "https://evil.example"),
        (LOCAL, "localhost", "https://localhost.evil.example"),
        (LOCAL, "localhost", "https://app.example.evil.example"),
        (LOCAL, "localhost", "null"),
        (LOCAL, "localhost", ""),
        (LOCAL, "localhost", "http://["),
        (LOCAL, "localhost", "file://localhost"),
        (PUBLIC, "localhost", None),
        (PUBLIC, "mcp.example", "http://localhost"),
        (ANYWHERE, "whatever.example", "https://whatever.example"),
    ],
)
def test_other_hosts_and_origins_stay_outside(door: Door, host: str, origin: str | None) -> None:
    for _ in range(2):
        with pytest.raises(Forbidden):
            check(door, host, origin)


def guarded(*tokens: TokenConfig) -> Door:
    async def no_fetch(url: str) -> bytes:
        raise AssertionError("there is no issuer to ask")

    return Door(Authenticators(StaticTokens(tokens), JwtTokens((), no_fetch)), local=True)


def test_without_authentication_everybody_is_one_anonymous_principal() -> None:
    assert LOCAL.known({b"authorization": b"Bearer whatever"}) is ANONYMOUS


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Bearer", b"Bearer ", b"Bearer wrong", b"Basic secret", b"secret", b"bearersecret", b"Bearer secret x"],
)
async def test_a_missing_or_wrong_token_is_refused_and_not_repeated(header: bytes | None) -> None:
    door = guarded(TokenConfig("alice", sha256(b"secret").hexdigest()))
    headers = {b"authorization": header} if header is not None else {}
    assert door.known(headers) is None
    with pytest.raises(Unauthenticated) as refused:
        await door.verify(headers)
    assert "wrong" not in str(refused.value)


@pytest.mark.parametrize("header", [b"Bearer secret", b"bearer secret", b"BEARER   secret "])
def test_a_token_says_who_calls(header: bytes) -> None:
    principal = guarded(TokenConfig("alice", sha256(b"secret").hexdigest(), "acme")).known({b"authorization": header})
    assert principal is not None
    assert (principal.subject, principal.tenant) == ("alice", "acme")
