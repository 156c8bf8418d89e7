"""Whether a JSON-RPC message is valid in the revision that it is spoken in, and in the direction that it goes."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Literal

from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator

Message = dict[str, Any]
Receiver = Literal["client", "server"]

REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
LATEST_LEGACY = "2025-11-25"
INPUT_REQUIRED = ("prompts/get", "resources/read", "tools/call")
"""Requests of the modern wire that may be answered with a question."""

_SENDER = {"client": "Server", "server": "Client"}


def fault(message: object, revision: str, receiver: Receiver = "client", method: str | None = None) -> str | None:
    """What is wrong with a message, or None. `method` is that of the request which it answers, where that is known."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return f"no JSON-RPC message: {_short(message)}"
    spoken = Revision.of(revision)
    if "method" in message:
        return spoken.fault_in_said(message, receiver)
    if "error" in message:
        return spoken.fault_in_error(message)
    return spoken.fault_in_result(message, method)


class Revision:
    """The schema of one revision, with a validator of each definition that was ever asked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._schema: dict[str, Any] = json.loads((Path(__file__).parent / f"{name}.json").read_text())
        self._key = "$defs" if "$defs" in self._schema else "definitions"
        self._definitions: dict[str, Any] = self._schema[self._key]
        self._validators: dict[str, Validator] = {}

    def __repr__(self) -> str:
        return f"<Revision {self.name} {len(self._validators)} validators>"

    @classmethod
    @functools.cache
    def of(cls, name: str) -> Revision:
        """The revision of that name. One object for all who ask: compiling is what takes time."""
        return cls(name)

    @functools.cached_property
    def error_codes(self) -> dict[int, str]:
        """The definition for each error code that has one for the whole message."""
        found = {}
        for name, definition in self._definitions.items():
            for part in definition.get("properties", {}).get("error", {}).get("allOf", []):
                if "const" in part.get("properties", {}).get("code", {}):
                    found[part["properties"]["code"]["const"]] = name
        return found

    def methods(self, kind: str) -> dict[str, str]:
        """The definition for each method of a union: `ServerRequest`, `ClientNotification` and so on."""
        if kind not in self._definitions:
            return {}
        union = self._definitions[kind]
        names = [part["$ref"].rpartition("/")[2] for part in union.get("anyOf", [union])]
        return {self._definitions[name]["properties"]["method"]["const"]: name for name in names}

    def fault_in_said(self, message: Message, receiver: Receiver) -> str | None:
        """What is wrong with a request or notification."""
        kind = _SENDER[receiver] + ("Request" if "id" in message else "Notification")
        name = self.methods(kind).get(message["method"])
        if name is None:
            return f"{self.name} has no {kind} {message['method']!r}"
        envelope = "JSONRPCRequest" if "id" in message else "JSONRPCNotification"
        return self._fault(message, envelope) or self._fault(message, name)

    def fault_in_error(self, message: Message) -> str | None:
        """What is wrong with an error. What could not be read has no id to answer to, which the first schemas forgot."""
        envelope = "JSONRPCErrorResponse" if "JSONRPCErrorResponse" in self._definitions else "JSONRPCError"
        if "id" not in message and envelope == "JSONRPCError":
            message = message | {"id": 0}
        wrong = self._fault(message, envelope)
        if wrong is not None:
            return wrong
        named = self.error_codes.get(message["error"]["code"])
        return self._fault(message, named) if named else None

    def fault_in_result(self, message: Message, method: str | None) -> str | None:
        """What is wrong with a response that is no error."""
        envelope = "JSONRPCResultResponse" if "JSONRPCResultResponse" in self._definitions else "JSONRPCResponse"
        wrong = self._fault(message, envelope)
        if wrong is not None or method is None:
            return wrong
        name = self._result_of(method, message["result"])
        return None if name is None else self._fault(message["result"], name)

    def _result_of(self, method: str, result: Message) -> str | None:
        """The definition that a result must match; None for what belongs to an extension."""
        kind = result.get("resultType", "complete")
        if "InputRequiredResult" in self._definitions:
            if kind == "input_required" and method in INPUT_REQUIRED:
                return "InputRequiredResult"
            if kind not in ("complete", "input_required"):
                return None
        if "task" in result and "CreateTaskResult" in self._definitions:
            return "CreateTaskResult"
        asked = self.methods("ClientRequest") | self.methods("ServerRequest")
        wanted = asked.get(method, "").replace("Request", "Result")
        return wanted if wanted in self._definitions else "EmptyResult"

    def _fault(self, value: object, name: str) -> str | None:
        error = best_match(self._validator(name).iter_errors(value))
        return None if error is None else f"{self.name} {name}: at {error.json_path}: {error.message[:300]} in {_short(value)}"

    def _validator(self, name: str) -> Validator:
        if name not in self._validators:
            schema = self._schema | {"$ref": f"#/{self._key}/{name}"}
            kind = Draft202012Validator if self._key == "$defs" else Draft7Validator
            self._validators[name] = kind(schema)
        return self._validators[name]


def _short(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=repr)[:500]
