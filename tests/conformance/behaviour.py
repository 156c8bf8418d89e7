"""What the conformance fixtures do, whichever SDK serves it: one answer for each method, tool and prompt.

This module runs under both lines of the SDK, so it imports neither. What differs between them, and between the
generations of clients, is behind `Caller`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from tests.conformance import offers

Json = dict[str, Any]


WORK_SECONDS = 0.1
"""How long the tool works whose stream is closed meanwhile."""


class Refusal(Exception):
    """Becomes a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class NotThere(Exception):
    """There is no resource of this URI: each generation has a code of its own for it."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri


class Caller(Protocol):
    """The client whose request is answered, and the way back to it while that goes on."""

    capabilities: Json

    async def ask(self, questions: dict[str, Json], *, keep: bool = False) -> dict[str, Json]:
        """The answers by key. On the modern wire the request ends here, with `input_required`, until all are there;
        `keep` puts the answers so far into a state that comes back with the next round."""

    async def progress(self, done: float, total: float) -> None: ...

    async def log(self, text: str) -> None: ...

    async def changed(self, what: str) -> None:
        """Announce that the list of `tools` or `prompts` has changed."""

    async def close_stream(self) -> None:
        """End the stream of this request, which the client then resumes; nothing where the wire has no such thing."""

    def need(self, capability: str) -> None:
        """Raises Refusal where this generation lets a server insist on a capability that was not declared."""


Tool = Callable[[Caller, Json], Awaitable[Json]]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def red_pixel() -> bytes:
    """The smallest PNG there is."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def silence() -> bytes:
    """A WAV file with nothing to hear."""
    shape = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
    samples = b"data" + struct.pack("<I", 2) + b"\x80\x80"
    return b"RIFF" + struct.pack("<I", 4 + len(shape) + len(samples)) + b"WAVE" + shape + samples


PIXEL = base64.b64encode(red_pixel()).decode()
SOUND = base64.b64encode(silence()).decode()
IMAGE: Json = {"type": "image", "data": PIXEL, "mimeType": "image/png"}


def text(words: str) -> Json:
    """A block of text."""
    return {"type": "text", "text": words}


def embedded(uri: str, kind: str, words: str) -> Json:
    """A block with a resource in it."""
    return {"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": words}}


def content(*blocks: Json) -> Json:
    """The result of a tool."""
    return {"content": list(blocks)}


def form(message: str, properties: Json, required: list[str] | None = None) -> Json:
    """A question to the user."""
    schema = {"type": "object", "properties": properties, "required": list(properties) if required is None else required}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def sample(prompt: str, most: int = 100) -> Json:
    """A question to the client's model."""
    messages = [{"role": "user", "content": text(prompt)}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": most}}


ROOTS: Json = {"method": "roots/list", "params": {}}
STRING: Json = {"type": "string"}
YES: Json = form("Please confirm", {"ok": {"type": "boolean"}})


def accepted(answer: Json) -> Json:
    """What the user filled in; nothing where the user did not."""
    filled: Json = answer.get("content") or {}
    return filled


async def _simple_text(_caller: Caller, _arguments: Json) -> Json:
    return content(text("This is a simple text response for testing."))


async def _image(_caller: Caller, _arguments: Json) -> Json:
    return content(IMAGE)


async def _audio(_caller: Caller, _arguments: Json) -> Json:
    return content({"type": "audio", "data": SOUND, "mimeType": "audio/wav"})


async def _embedded(_caller: Caller, _arguments: Json) -> Json:
    return content(embedded("test://embedded-resource", "text/plain", "This is an embedded resource content."))


async def _mixed(_caller: Caller, _arguments: Json) -> Json:
    data = json.dumps({"test": "data", "value": 123})
    return content(text("Several kinds:"), IMAGE, embedded("test://mixed-content-resource", "application/json", data))


async def _failing(_caller: Caller, _arguments: Json) -> Json:
    return content(text("This tool intentionally returns an error for testing")) | {"isError": True}


async def _logging(caller: Caller, _arguments: Json) -> Json:
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await caller.log(line)
    return content(text("logged"))


async def _progress(caller: Caller, _arguments: Json) -> Json:
    for done in (0, 50, 100):
        await caller.progress(done, 100)
    return content(text("done"))


async def _sampling(caller: Caller, arguments: Json) -> Json:
    answers = await caller.ask({"answer": sample(arguments["prompt"])})
    return content(text(f"LLM response: {json.dumps(answers['answer'])}"))


async def _elicitation(caller: Caller, arguments: Json) -> Json:
    fields = {"username": {"type": "string", "description": "A name"}, "email": {"type": "string", "description": "An address"}}
    return await _ask_user(caller, form(arguments["message"], fields), "User response")


async def _defaults(caller: Caller, _arguments: Json) -> Json:
    fields: Json = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await _ask_user(caller, form("Please look through the defaults", fields, []), "Elicitation completed")


def _titled(word: str) -> list[Json]:
    numbers = ("First", "Second", "Third")
    return [{"const": f"value{number}", "title": f"{name} {word}"} for number, name in enumerate(numbers, 1)]


async def _choices(caller: Caller, _arguments: Json) -> Json:
    plain = ["option1", "option2", "option3"]
    older = {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}
    fields: Json = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": _titled("Option")},
        "legacyEnum": {"type": "string", **older},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": _titled("Choice")}},
    }
    return await _ask_user(caller, form("Please choose", fields, []), "Elicitation completed")


async def _ask_user(caller: Caller, question: Json, before: str) -> Json:
    answer = (await caller.ask({"answer": question}))["answer"]
    return content(text(f"{before}: action={answer['action']}, content={json.dumps(accepted(answer))}"))


async def _reconnection(caller: Caller, _arguments: Json) -> Json:
    # The SDK sends the event with which a stream begins in a task of its own: closed too soon, the stream never had one.
    await asyncio.sleep(WORK_SECONDS)
    await caller.close_stream()
    return content(text("answered after the stream was closed"))


async def _missing(caller: Caller, _arguments: Json) -> Json:
    caller.need("sampling")
    answers = await caller.ask({"answer": sample("Say something")})
    return content(text(json.dumps(answers["answer"])))


async def _streaming(caller: Caller, _arguments: Json) -> Json:
    await caller.progress(0, 1)
    return await _ask_user(caller, form("Who is there?", {"name": STRING}), "User response")


async def _one_log(caller: Caller, _arguments: Json) -> Json:
    await caller.log("a message")
    return content(text("logged"))


async def _tools_changed(caller: Caller, _arguments: Json) -> Json:
    await caller.changed("tools")
    return content(text("said"))


async def _prompts_changed(caller: Caller, _arguments: Json) -> Json:
    await caller.changed("prompts")
    return content(text("said"))


async def _name(caller: Caller, _arguments: Json) -> Json:
    answers = await caller.ask({"user_name": form("What is your name?", {"name": STRING})})
    return content(text(f"Hello, {accepted(answers['user_name']).get('name')}!"))


async def _capital(caller: Caller, _arguments: Json) -> Json:
    answers = await caller.ask({"capital_question": sample("What is the capital of France?")})
    return content(text(json.dumps(answers["capital_question"])))


async def _list_roots(caller: Caller, _arguments: Json) -> Json:
    answers = await caller.ask({"client_roots": ROOTS})
    return content(text(" ".join(root["uri"] for root in answers["client_roots"]["roots"])))


async def _confirmed(caller: Caller, _arguments: Json) -> Json:
    await caller.ask({"confirm": YES}, keep=True)
    return content(text("state-ok"))


async def _several(caller: Caller, _arguments: Json) -> Json:
    questions = {
        "user_name": form("What is your name?", {"name": STRING}),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    answers = await caller.ask(questions, keep=True)
    return content(text(json.dumps(sorted(answers))))


async def _rounds(caller: Caller, _arguments: Json) -> Json:
    first = await caller.ask({"step1": form("Step 1: What is your name?", {"name": STRING})}, keep=True)
    second = await caller.ask({"step2": form("Step 2: What is your favorite color?", {"color": STRING})}, keep=True)
    told = accepted(first["step1"]).get("name"), accepted(second["step2"]).get("color")
    return content(text(" likes ".join(map(str, told))))


async def _as_able(caller: Caller, _arguments: Json) -> Json:
    able = {"elicitation": form("What is your name?", {"name": STRING}), "sampling": sample("Say something")}
    answers = await caller.ask({key: question for key, question in able.items() if key in caller.capabilities})
    return content(text(json.dumps(sorted(answers))))


TOOLS: dict[str, Tool] = {
    "test_simple_text": _simple_text,
    "test_image_content": _image,
    "test_audio_content": _audio,
    "test_embedded_resource": _embedded,
    "test_multiple_content_types": _mixed,
    "test_error_handling": _failing,
    "test_tool_with_logging": _logging,
    "test_tool_with_progress": _progress,
    "test_sampling": _sampling,
    "test_elicitation": _elicitation,
    "test_elicitation_sep1034_defaults": _defaults,
    "test_elicitation_sep1330_enums": _choices,
    "test_reconnection": _reconnection,
    "json_schema_2020_12_tool": _simple_text,
    "test_custom_header": _simple_text,
    "test_missing_capability": _missing,
    "test_streaming_elicitation": _streaming,
    "test_logging_tool": _one_log,
    "test_trigger_tool_change": _tools_changed,
    "test_trigger_prompt_change": _prompts_changed,
    "test_input_required_result_elicitation": _name,
    "test_input_required_result_sampling": _capital,
    "test_input_required_result_list_roots": _list_roots,
    "test_input_required_result_request_state": _confirmed,
    "test_input_required_result_multiple_inputs": _several,
    "test_input_required_result_multi_round": _rounds,
    "test_input_required_result_tampered_state": _confirmed,
    "test_input_required_result_capabilities": _as_able,
}


def _said(*blocks: Json) -> Json:
    return {"messages": [{"role": "user", "content": block} for block in blocks]}


async def _prompt(caller: Caller, params: Json) -> Json:
    given = params.get("arguments") or {}
    match params["name"]:
        case "test_simple_prompt":
            return _said(text("This is a simple prompt for testing."))
        case "test_prompt_with_arguments":
            return _said(text(f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'"))
        case "test_prompt_with_embedded_resource":
            resource = embedded(given.get("resourceUri", ""), "text/plain", "Embedded resource content for testing.")
            return _said(resource, text("Please process the embedded resource above."))
        case "test_prompt_with_image":
            return _said(IMAGE, text("Please analyze the image above."))
        case "test_input_required_result_prompt":
            question = form("What context should the prompt use?", {"context": STRING})
            answers = await caller.ask({"user_context": question})
            return _said(text(f"Think of {accepted(answers['user_context']).get('context')}."))
    raise Refusal(-32602, f"Unknown prompt: {params['name']}")


def _read(uri: str) -> Json:
    if uri == offers.STATIC_TEXT:
        return {"uri": uri, "mimeType": "text/plain", "text": "This is the content of the static text resource."}
    if uri == offers.STATIC_BINARY:
        return {"uri": uri, "mimeType": "image/png", "blob": PIXEL}
    if uri == offers.WATCHED:
        return {"uri": uri, "mimeType": "text/plain", "text": "Nothing has happened."}
    if found := re.fullmatch("test://template/([^/]+)/data", uri):
        data = {"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"}
        return {"uri": uri, "mimeType": "application/json", "text": json.dumps(data)}
    raise NotThere(uri)


async def answer(caller: Caller, method: str, params: Json) -> Json:
    """The result of a request. Raises Refusal, NotThere, and whatever `caller.ask` does."""
    match method:
        case "tools/list":
            return {"tools": offers.TOOLS}
        case "tools/call":
            if (tool := TOOLS.get(params["name"])) is None:
                raise Refusal(-32602, f"Unknown tool: {params['name']}")
            return await tool(caller, params.get("arguments") or {})
        case "resources/list":
            return {"resources": offers.RESOURCES}
        case "resources/templates/list":
            return {"resourceTemplates": offers.TEMPLATES}
        case "resources/read":
            return {"contents": [_read(params["uri"])]}
        case "prompts/list":
            return {"prompts": offers.PROMPTS}
        case "prompts/get":
            return await _prompt(caller, params)
        case "completion/complete":
            return {"completion": {"values": ["paris", "park", "party"], "total": 3, "hasMore": False}}
        case "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel":
            return {}
    raise Refusal(-32601, f"Method not found: {method}")
