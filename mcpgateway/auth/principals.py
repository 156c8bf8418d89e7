"""The principal: who authenticated."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

import msgspec


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone whose identity was verified. Issuer, subject and tenant together say who; groups only what they may do."""

    issuer: str
    subject: str
    tenant: str = ""
    groups: tuple[str, ...] = ()
    id: str = field(init=False, repr=False, compare=False)
    """Injective over issuer, subject and tenant: no two principals share one."""
    short: str = field(init=False, repr=False, compare=False)
    """What status pages and metrics show: tells principals apart without telling who they are."""

    def __post_init__(self) -> None:
        encoded = msgspec.json.encode([self.issuer, self.subject, self.tenant])
        object.__setattr__(self, "id", encoded.decode())
        object.__setattr__(self, "short", sha256(encoded).hexdigest()[:12])


ANONYMOUS = Principal("gateway", "anonymous")
"""Everybody, where no authentication is configured."""
