"""Callers that a gateway knows by their tokens: what its configuration says of them, and what they show it."""

from __future__ import annotations

from hashlib import sha256
from typing import Any


def token_of(name: str) -> str:
    return f"token-of-{name}-0123456789"


def tokens_of(*names: str) -> dict[str, str]:
    """The setting `auth.tokens` that lets these callers in, and nobody else."""
    return {name: "sha256:" + sha256(token_of(name).encode()).hexdigest() for name in names}


def letting_in(*names: str) -> dict[str, Any]:
    """Settings of a gateway that lets these callers in, and nobody else."""
    return {"auth": {"tokens": tokens_of(*names)}}


def bearer(name: str) -> dict[str, str]:
    """The header in which a caller shows its token."""
    return {"Authorization": f"Bearer {token_of(name)}"}
