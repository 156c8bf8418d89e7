"""JSON-RPC 2.0 envelopes. What passes through stays raw: only the envelope is decoded.

Raw values are views on the buffer they came from; `bytes(raw)` copies what is to be kept.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from mcpgateway.errors import InvalidParams, InvalidRequest, ParseError

Id = int | str
Params = dict[str, Raw]

NO_PARAMS: Params = {}

NO_ID = "server-error"
"""What the official SDKs write for an id that is not known: no revision's schema allows JSON-RPC's null, and clients that
miss the field show nothing of the error."""


class Message(msgspec.Struct, gc=False):
    """One decoded envelope: a request, a notification, a result or an error, told apart by which fields are set."""

    jsonrpc: str | UnsetType = UNSET
    id: int | str | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: Params | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET

    @property
    def is_request(self) -> bool:
        return self.method is not UNSET and self.id is not UNSET

    @property
    def is_notification(self) -> bool:
        return self.method is not UNSET and self.id is UNSET

    @property
    def is_response(self) -> bool:
        return self.method is UNSET and (self.result is not UNSET or self.error is not UNSET)


_message = msgspec.json.Decoder(Message)
_batch = msgspec.json.Decoder(list[Raw])
_params = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.encode
# Possessive, and a string may lack its end: else each quote of an endless string would be searched from anew.
_brackets = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def decode(body: bytes) -> Message:
    """The envelope in `body`. Shape faults (no method, a null id) are left to the caller.

    Raises ParseError where it is not JSON, InvalidRequest where it is not one message object, InvalidParams where the
    parameters are not an object.
    """
    check_utf8(body)
    try:
        return _message.decode(body)
    except msgspec.ValidationError as error:
        if "$.params" in str(error):
            raise InvalidParams(f"params must be an object: {error}") from error
        raise InvalidRequest(f"not a JSON-RPC message: {error}") from error
    except msgspec.DecodeError as error:
        raise ParseError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise ParseError("not JSON that can be read: nested too deeply") from error


def decode_batch(body: bytes) -> list[bytes]:
    """The messages of a 2025-03-26 batch, each still undecoded."""
    check_utf8(body)
    try:
        return [bytes(item) for item in _batch.decode(body)]
    except (msgspec.DecodeError, RecursionError) as error:
        raise ParseError(f"not a JSON array: {error}") from error


def check_utf8(body: bytes) -> None:
    """Raise ParseError unless `body` is UTF-8. Raw values are not checked by the decoder, so this stands before it."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise ParseError(f"not UTF-8: {error.reason} at byte {error.start}") from error


def too_deep(body: bytes, limit: int) -> bool:
    """Whether arrays and objects in `body` are nested deeper than `limit`."""
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    depth = 0
    for found in _brackets.finditer(body):
        mark = found.group()
        if mark in (b"[", b"{"):
            depth += 1
            if depth > limit:
                return True
        elif mark in (b"]", b"}"):
            depth -= 1
    return False


def object_of(raw: Raw | bytes) -> Params:
    """The fields of a raw JSON object, each still raw. Raises InvalidParams where it is none."""
    try:
        return _params.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidParams(f"not a JSON object: {error}") from error


def string_of(params: Params, field: str) -> str:
    """The string in `params[field]`. Raises InvalidParams naming the field."""
    raw = params.get(field)
    if raw is None:
        raise InvalidParams(f"params.{field} is missing")
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        value = None
    if not isinstance(value, str):
        raise InvalidParams(f"params.{field} must be a string")
    return value


def raw(value: Any) -> Raw:
    """`value` as raw JSON."""
    return Raw(_encode(value))


def request(id: Id, method: str, params: Params | None) -> bytes:
    """A request's bytes."""
    if params is None:
        return b'{"jsonrpc":"2.0","id":%b,"method":%b}' % (_encode(id), _encode(method))
    return b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}' % (_encode(id), _encode(method), _encode(params))


def notification(method: str, params: bytes | None = None) -> bytes:
    """A notification's bytes. `params` is raw JSON."""
    if params is None:
        return b'{"jsonrpc":"2.0","method":%b}' % _encode(method)
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (_encode(method), params)


def request_raw(id: Id, method: str, params: bytes | None) -> bytes:
    """A request's bytes, its params raw JSON already."""
    if params is None:
        return b'{"jsonrpc":"2.0","id":%b,"method":%b}' % (_encode(id), _encode(method))
    return b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}' % (_encode(id), _encode(method), params)


def result(id: Id, raw_result: bytes | Raw) -> bytes:
    """A result's bytes. `raw_result` is what the upstream sent, unaltered."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_encode(id), raw_result)


def error(id: Id | None, raw_error: bytes | Raw) -> bytes:
    """An error's bytes. Where the request's id is not known it is `NO_ID`."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (_encode(NO_ID if id is None else id), raw_error)
