"""`requestState`: what a client carries from one round of a request to the next, and cannot read, alter or give away."""

from __future__ import annotations

import base64
import secrets
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Raw

from mcpgateway.errors import InvalidParams
from mcpgateway.protocol.jsonrpc import Params
from mcpgateway.runtime import Sweep

if TYPE_CHECKING:
    from mcpgateway.downstream.cipher import Cipher

OF_ROUNDS = frozenset({"_meta", "inputResponses", "requestState"})
"""Parameters that differ from round to round; the others must not."""


class Sealed(NamedTuple):
    """What a state holds. `kind` says what `payload` is."""

    kind: str
    payload: str


class _Content(NamedTuple):
    expires_at: float
    node: str
    kind: str
    payload: str


_content = msgspec.json.Decoder(_Content)


class Sealer:
    """Seals and opens states, with a key that dies with the process: so do the calls that they speak of.

    A state is good for one principal and one request, its method and parameters, until it expires; within that as often as
    it is sent.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._node = secrets.token_hex(8)
        self._cipher: Cipher | None = None
        """Made for the first state; until then none can be opened."""

    def __repr__(self) -> str:
        return f"<Sealer of node {self._node}>"

    def seal(self, sealed: Sealed, principal: str, request: bytes, seconds: float) -> str:
        """A state for `principal` and the request whose digest is `request`."""
        content = _Content(self._sweep.now() + seconds, self._node, *sealed)
        if self._cipher is None:
            self._cipher = _new_cipher()
        hidden = self._cipher.encrypt(msgspec.json.encode(content), _bound_to(principal, request))
        return base64.urlsafe_b64encode(hidden).decode()

    def open(self, state: str, principal: str, request: bytes) -> Sealed:
        """What is in a state. Raises InvalidParams, in the same words whatever is wrong with it."""
        if self._cipher is None:
            raise _refused()
        try:
            raw = base64.b64decode(state, altchars=b"-_", validate=True)
            content = _content.decode(self._cipher.decrypt(raw, _bound_to(principal, request)))
        except ValueError as error:
            raise _refused() from error
        if content.expires_at <= self._sweep.now() or content.node != self._node:
            raise _refused()
        return Sealed(content.kind, content.payload)


def _new_cipher() -> Cipher:
    # Not at the top: the library takes 9 MiB, and many a gateway never seals anything.
    from mcpgateway.downstream.cipher import Cipher

    return Cipher()


def digest_of(method: str, params: Params, place: str = "") -> bytes:
    """What makes a request at one endpoint, `place`, the same request in each of its rounds, however its JSON is written."""
    told = {name: _canonical(value) for name, value in params.items() if name not in OF_ROUNDS}
    return sha256(msgspec.json.encode([method, told, place], order="deterministic")).digest()


def _canonical(value: Raw) -> bytes:
    """One value in one form, however it was written. What only others can read, such as 1e999, must be written the same."""
    try:
        return msgspec.json.encode(msgspec.json.decode(value), order="deterministic")
    except (ValueError, OverflowError, RecursionError):
        return bytes(value)


def _bound_to(principal: str, request: bytes) -> bytes:
    return msgspec.json.encode([principal, request])


def _refused() -> InvalidParams:
    return InvalidParams(
        "params.requestState is not valid here: it was altered, has expired, or belongs to another request or caller; "
        "send the request anew, without it"
    )
