"""Static tokens."""

from __future__ import annotations

from mcpgateway.auth.principals import Principal
from mcpgateway.auth.tokens import StaticTokens, new_token
from mcpgateway.config import TokenConfig


def configured(name: str, tenant: str = "") -> tuple[bytes, TokenConfig]:
    token, hashed = new_token()
    return token.encode(), TokenConfig(name=name, hash=hashed.removeprefix("sha256:"), tenant=tenant)


def test_a_token_stands_for_its_principal() -> None:
    alices, alice = configured("alice")
    bobs, bob = configured("bob", "acme")
    tokens = StaticTokens([alice, bob])
    assert tokens.principal_of(alices) == Principal("static", "alice")
    assert tokens.principal_of(bobs) == Principal("static", "bob", "acme")


def test_a_rotated_token_stands_for_the_same_principal() -> None:
    (old, first), (new, second) = configured("alice"), configured("alice")
    tokens = StaticTokens([first, second])
    assert tokens.principal_of(old) == tokens.principal_of(new)


def test_any_other_token_stands_for_nobody() -> None:
    token, alice = configured("alice")
    tokens = StaticTokens([alice])
    for wrong in (b"", token[:-1], token + b"x", token.upper(), alice.hash.encode(), bytes.fromhex(alice.hash)):
        assert tokens.principal_of(wrong) is None


def test_tokens_are_long_random_and_never_repeat() -> None:
    made = {new_token()[0] for _ in range(100)}
    assert len(made) == 100 and all(len(token) > 40 for token in made)


def test_no_repr_shows_a_hash() -> None:
    _, alice = configured("alice")
    assert alice.hash not in repr(alice) + repr(StaticTokens([alice]))
