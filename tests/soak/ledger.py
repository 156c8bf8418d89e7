"""What a soak found out: figures, and everything that must not have happened."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

SHOWN = 10
"""Findings of one sort that are written out; the figures count all of them."""


@dataclass
class Ledger:
    """One soak's figures and findings."""

    seconds: float = 0.0
    """How long the storm lasted."""
    calls: int = 0
    cancels: int = 0
    disconnects: int = 0
    deletes: int = 0
    breaks: int = 0
    """Restarts, and losses of all connections."""
    losses: int = 0
    """Of all sessions, without a restart."""
    refusals: int = 0
    questions: int = 0
    notifications: int = 0
    failures: int = 0
    """Calls that failed for a reason that the storm itself gave."""
    crossings: list[str] = field(default_factory=list)
    """An answer, question or request that met another caller's session, credential or conversation."""
    wrong: list[str] = field(default_factory=list)
    """Notifications that reached somebody they were not for."""
    unexpected: list[str] = field(default_factory=list)
    """Errors for which the storm gave no reason, and errors that do not say what happened."""
    leaks: list[str] = field(default_factory=list)
    """What was left when everybody had gone."""
    owners: dict[tuple[str, str], str] = field(default_factory=dict)
    """(upstream, session) → the principal, or the conversation, whose answers first came out of it."""

    @property
    def clean(self) -> bool:
        return not (self.crossings or self.wrong or self.unexpected or self.leaks)

    def owned(self, upstream: str, session: str, owner: str) -> bool:
        """Whether a session that answered `owner` never answered anybody else."""
        return self.owners.setdefault((upstream, session), owner) == owner

    def line(self) -> str:
        """All figures in one line."""
        figures: dict[str, object] = {
            "calls": self.calls,
            "calls/s": round(self.calls / self.seconds),
            "cancels": self.cancels,
            "disconnects": self.disconnects,
            "deletes": self.deletes,
            "breaks and restarts": self.breaks,
            "losses": self.losses,
            "401s": self.refusals,
            "questions": self.questions,
            "notifications": self.notifications,
            "expected errors": self.failures,
            "crossings": len(self.crossings),
            "wrong notifications": len(self.wrong),
            "unexpected errors": len(self.unexpected),
            "leaks": len(self.leaks),
        }
        return ", ".join(f"{name} {value}" for name, value in figures.items())

    def findings(self) -> list[str]:
        """What went wrong, the first of each sort in words."""
        sorts = {"crossing": self.crossings, "wrong": self.wrong, "unexpected": self.unexpected, "leak": self.leaks}
        return [f"{sort}: {text}" for sort, texts in sorts.items() for text in texts[:SHOWN]]


class Faults(logging.Handler):
    """Takes what the gateway logs as an error into the ledger: nothing in a soak is a fault of its own."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.ERROR)
        self._ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        reason = record.exc_info[1] if record.exc_info else None
        self._ledger.unexpected.append(f"logged by {record.name}: {record.getMessage()} {reason!r}")
