"""What servers ask clients, as a modern result carries it: who may be asked what, and the forms of both generations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec import Raw

from mcpgateway.errors import InvalidParams, RpcError
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import cannot_ask
from mcpgateway.protocol.jsonrpc import Params
from mcpgateway.protocol.modern import ASKABLE, MISSING_CAPABILITY

ELICIT = "elicitation/create"

Capabilities = dict[str, dict[str, object]]
"""As clients declare them."""


class Question(NamedTuple):
    """A server's request to a client: its method, and its params as raw JSON."""

    method: str
    params: bytes

    @classmethod
    def decode(cls, raw: Raw) -> Question:
        """Raises InvalidParams where `raw` is none."""
        fields = jsonrpc.object_of(raw)
        return cls(jsonrpc.string_of(fields, "method"), bytes(fields.get("params", b"{}")))


def lacking(capabilities: bytes, question: Question) -> Capabilities | None:
    """What a client would have to declare to be asked this, in the form of its capabilities; None where it has.

    Raises RpcError for what no client can be asked.
    """
    capability = ASKABLE.get(question.method)
    if capability is None:
        raise cannot_ask(question.method)
    declared = jsonrpc.object_of(capabilities).get(capability)
    detail = _detail(question)
    if declared is not None:
        parts = _parts(declared)
        # Elicitation that says no more of itself is by form.
        if detail is None or detail in parts or (detail == "form" and not parts):
            return None
    return {capability: {detail: {}} if detail in ("tools", "url") else {}}


def _parts(capability: Raw) -> Params:
    try:
        return jsonrpc.object_of(capability)
    except InvalidParams:
        return {}


def _detail(question: Question) -> str | None:
    """The part of its capability that a question needs."""
    params = jsonrpc.object_of(question.params)
    if question.method == ELICIT:
        return "url" if bytes(params.get("mode", b"")) == b'"url"' else "form"
    return "tools" if "tools" in params else None


def undeclared(required: Capabilities) -> RpcError:
    """What a client is told whose request needs a capability that it did not declare."""
    name = next(iter(required))
    return RpcError.of(
        MISSING_CAPABILITY, f"the server needs the client's {name} capability for this", {"requiredCapabilities": required}
    )


def carried(question: Question) -> Raw:
    """A legacy server's question as an `inputRequests` entry. Modern clients have no names for visits to a URL."""
    params = jsonrpc.object_of(question.params)
    params.pop("elicitationId", None)
    return jsonrpc.raw({"method": question.method, "params": params})


def visits(error: RpcError) -> dict[str, Raw]:
    """The questions in a 2025-11-25 error that asks for visits to URLs. Raises InvalidParams where it holds none."""
    data = jsonrpc.object_of(jsonrpc.object_of(error.error).get("data", b"{}"))
    try:
        elicitations = msgspec.json.decode(data.get("elicitations", b"[]"), type=list[Raw])
    except msgspec.DecodeError as fault:
        raise InvalidParams("data.elicitations must be a list") from fault
    if not elicitations:
        raise InvalidParams("data.elicitations is empty")
    return {f"url-{number}": carried(Question(ELICIT, bytes(raw))) for number, raw in enumerate(elicitations, 1)}


def input_required(questions: Mapping[str, Raw], state: str) -> bytes:
    """The raw result with which a client is asked."""
    return msgspec.json.encode({"resultType": "input_required", "inputRequests": questions, "requestState": state})


def answers_of(params: Params) -> Params:
    """The client's answers by key, each a raw object. Raises InvalidParams."""
    answers = jsonrpc.object_of(params.get("inputResponses", b"{}"))
    for key, answer in answers.items():
        if not bytes(answer).startswith(b"{"):
            raise InvalidParams(f"params.inputResponses[{key[:40]!r}] must be an object")
    return answers


def agreed(answer: Raw | None) -> bool:
    """Whether an answer to an elicitation says that the user did it."""
    return answer is not None and bytes(jsonrpc.object_of(answer).get("action", b"")) == b'"accept"'
