"""The audit log: who called what, where, with which outcome, and how long it took. One JSON object a line, append only."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from mcpgateway.errors import RpcError
from mcpgateway.protocol.call import Call
from mcpgateway.runtime import Clock
from mcpgateway.services.conversation import Conversation

_log = logging.getLogger("mcpgateway.audit")

NAMED_BY = ("name", "uri")
"""Parameters that say what was called."""

LOOK_SECONDS = 1.0
"""How often it is looked whether the file is still the one at its path, at most, and only while something is written."""


class Audit(Protocol):
    """Told of every call when it is over."""

    def record(
        self, upstream: str, conversation: Conversation, call: Call, error: BaseException | None, seconds: float
    ) -> None: ...

    def close(self) -> None: ...


class NullAudit:
    """Keeps nothing."""

    def record(
        self, upstream: str, conversation: Conversation, call: Call, error: BaseException | None, seconds: float
    ) -> None:
        return

    def close(self) -> None:
        return


class FileAudit:
    """Appends to a file, which only its owner may read. What the gateway asks for itself is not recorded.

    `arguments`: whether parameters are written too; `hide` takes the known secrets out of a text. A line that cannot be
    written is reported in the log and does not stop the call. A file that was moved away or deleted is followed by a new one
    at its path.
    """

    def __init__(self, path: str, *, arguments: bool, hide: Callable[[str], str], clock: Clock | None = None) -> None:
        self._path = path
        self._arguments = arguments
        self._hide = hide
        self._now = (clock or Clock()).now
        self._look_at = self._now() + LOOK_SECONDS
        self._file = _open(path)

    def __repr__(self) -> str:
        return f"<FileAudit {self._path}>"

    def record(
        self, upstream: str, conversation: Conversation, call: Call, error: BaseException | None, seconds: float
    ) -> None:
        """Write one line."""
        principal = conversation.principal
        if principal is None:
            return
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z",
            "request_id": call.request_id,
            "issuer": principal.issuer,
            "subject": principal.subject,
            "tenant": principal.tenant,
            "upstream": upstream,
            "method": call.method,
            "outcome": outcome_of(error),
            "ms": round(seconds * 1000, 1),
        }
        line |= {name: call.params[name] for name in NAMED_BY if name in call.params}
        if self._arguments:
            line["params"] = call.params
        try:
            if (now := self._now()) >= self._look_at:
                self._look(now)
            os.write(self._file, self._hide(msgspec.json.encode(line).decode()).encode() + b"\n")
        except OSError as failed:
            _log.error("the audit line of %s was not written to %s: %s", call.request_id, self._path, failed)

    def _look(self, now: float) -> None:
        self._look_at = now + LOOK_SECONDS
        try:
            if not _is_at(self._path, self._file):
                new = _open(self._path)
                os.close(self._file)
                self._file = new
        except OSError as error:
            # The lines are better kept in a file that was moved than nowhere.
            _log.error("the audit log cannot go on in a new file at %s, and goes on in the old one: %s", self._path, error)

    def close(self) -> None:
        os.close(self._file)


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _is_at(path: str, file: int) -> bool:
    """Whether the open `file` is the one that is found at `path`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def outcome_of(error: BaseException | None) -> str:
    """'ok', the code of a JSON-RPC error, or the class of what went wrong."""
    if isinstance(error, RpcError):
        return f"error {error.code}"
    return "ok" if error is None else type(error).__name__
