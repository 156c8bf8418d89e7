"""Reads `gateway.auth`: static tokens, and the issuers whose JWTs are let in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mcpgateway.config.jwt import read_issuers
from mcpgateway.config.reader import Source, refuse_unknown
from mcpgateway.config.text import Place
from mcpgateway.config.values import AuthConfig, TokenConfig

_hash = re.compile(r"sha256:([0-9a-fA-F]{64})")

MAX_NAME = 200
_HASH_WANTED = 'expected "sha256:" and 64 hex digits, as printed by: mcpgateway token new NAME'


def read_auth(data: Any, public_url: str, place: Place, source: Source) -> AuthConfig | None:
    """Who may call, or None where nothing is said of it. Problems are noted in `source`."""
    if data is None:
        return None
    if not isinstance(data, dict):
        source.problem(place, 'expected an object, {"tokens": {"NAME": "sha256:…"}}')
        return None
    refuse_unknown(data, ("tokens", "jwt"), place, source)
    issuers = read_issuers(data["jwt"], public_url, (*place, "jwt"), source) if "jwt" in data else ()
    if "tokens" not in data and "jwt" in data:
        return AuthConfig(jwt=issuers)
    return AuthConfig(_read_tokens(data.get("tokens"), (*place, "tokens"), source), issuers)


def fault_in_token_name(name: str) -> str | None:
    """Why no token can have this name, or None."""
    if not name.strip() or not name.isprintable() or len(name) > MAX_NAME:
        return f"a token's name has 1 to {MAX_NAME} printable characters, and not only spaces"
    return None


def _read_tokens(tokens: Any, place: Place, source: Source) -> tuple[TokenConfig, ...]:
    if not isinstance(tokens, dict) or not tokens:
        # Empty is refused too: it would lock everybody out, which nobody means.
        source.problem(place, "expected an object with at least one token: a name and its hash")
        return ()
    found = [token for name, value in tokens.items() for token in _read_name(name, value, (*place, name), source)]
    _refuse_shared(found, place, source)
    return tuple(found)


def _read_name(name: str, value: Any, place: Place, source: Source) -> Iterator[TokenConfig]:
    """The tokens of one name, written as a hash, a list of hashes, or an object with `hash` and `tenant`."""
    if fault := fault_in_token_name(name):
        source.problem(place, fault)
    tenant: Any = ""
    if isinstance(value, dict):
        refuse_unknown(value, ("hash", "tenant"), place, source)
        value, tenant = value.get("hash"), source.expand(value.get("tenant", ""), (*place, "tenant"))
    if not isinstance(tenant, str):
        source.problem((*place, "tenant"), "expected a string")
        tenant = ""
    hashes = value if isinstance(value, list) and value else [value]
    for written in hashes:
        text = source.expand(written, place)
        if isinstance(text, str) and (match := _hash.fullmatch(text)):
            yield TokenConfig(name=name, hash=match[1].lower(), tenant=tenant)
        else:
            source.problem(place, _HASH_WANTED)


def _refuse_shared(tokens: list[TokenConfig], place: Place, source: Source) -> None:
    """One token is one caller: under two names it would be unclear whose sessions are meant."""
    owners: dict[str, str] = {}
    for token in tokens:
        if token.hash in owners:
            source.problem((*place, token.name), f"the same hash as {owners[token.hash]!r}; every token is its own")
        owners[token.hash] = token.name
