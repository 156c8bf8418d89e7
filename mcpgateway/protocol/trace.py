"""Trace context (W3C Trace Context and Baggage; MCP's `_meta` keys of the same names, SEP-414): what a call continues."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from mcpgateway.errors import InvalidParams
from mcpgateway.protocol import jsonrpc

_traceparent = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_printable = re.compile(r"[\x20-\x7e]*")

MAX_CHARACTERS = 8192
"""Of baggage, as its specification asks; of tracestate more than any needs."""


class Trace(NamedTuple):
    """A place in somebody's trace. `tracestate` and `baggage` are '' where there is none."""

    traceparent: str
    tracestate: str = ""
    baggage: str = ""

    def lines(self) -> bytes:
        """As HTTP header lines."""
        return b"".join(b"%b: %b\r\n" % (name.encode(), value.encode("latin-1")) for name, value in self.fields().items())

    def fields(self) -> dict[str, str]:
        """Name to value, without those there are none of."""
        return {name: value for name, value in self._asdict().items() if value}

    def put_into(self, params: jsonrpc.Params) -> jsonrpc.Params:
        """`params` with this place in their `_meta`, in the stead of another that may be there.

        A `_meta` that is no object is left alone: what to say of it is for whoever the request is for.
        """
        try:
            meta = jsonrpc.object_of(params["_meta"]) if "_meta" in params else {}
        except InvalidParams:
            return params
        return params | {"_meta": jsonrpc.raw(meta | {name: jsonrpc.raw(value) for name, value in self.fields().items()})}


def trace_of(headers: dict[bytes, bytes], params: jsonrpc.Params) -> Trace | None:
    """The place in a trace that a request names: in `_meta`, which only the client itself can have written, else in headers.

    None where it names none, or none that is well formed.
    """
    meta = params.get("_meta")
    if meta is not None and bytes(meta).find(b'"traceparent"') >= 0:
        found = _trace(_texts(meta))
        if found is not None:
            return found
    if b"traceparent" not in headers:
        return None
    return _trace({name: headers.get(name.encode(), b"").decode("latin-1") for name in Trace._fields})


def _texts(meta: msgspec.Raw) -> dict[str, str]:
    try:
        fields = jsonrpc.object_of(meta)
        return {name: jsonrpc.string_of(fields, name) for name in Trace._fields if name in fields}
    except InvalidParams:
        return {}


def _trace(values: dict[str, str]) -> Trace | None:
    """Well formed, or None. What cannot stand in a header is left out."""
    if not _traceparent.fullmatch(values.get("traceparent", "")):
        return None
    kept = {name: value for name, value in values.items() if len(value) <= MAX_CHARACTERS and _printable.fullmatch(value)}
    return Trace(**kept)
