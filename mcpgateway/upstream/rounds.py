"""What both modern legs do with a call: the envelope that every request carries, and the rounds in which a server asks.

A modern server cannot send requests. It answers `input_required` instead, and is sent the request again with the answers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial

import msgspec
from msgspec import Raw

from mcpgateway.errors import BadAnswer, RpcError
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import Call, Channel, Client
from mcpgateway.protocol.modern import (
    ASKABLE,
    CAPABILITIES_META,
    CLIENT_INFO_META,
    ENVELOPE,
    LOG_LEVEL_META,
    TASKS,
    VERSION_META,
    WITH_ROUNDS,
)
from mcpgateway.runtime import Sweep, spawn
from mcpgateway.upstream.base import GATEWAY_INFO

OURS = ENVELOPE | {"progressToken"}
"""What is written anew in the `_meta` of each request; the rest of it is the client's."""

FIRST_WITH_URLS = "2025-11-25"
"""The first revision whose elicitation may send a person to a URL."""

MAX_ROUNDS = 10
MAX_QUESTIONS = 100
REMEMBERED_BYTES = 4096
"""Larger declarations are put together anew each time, so that nobody can fill the memory with them."""

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0

Send = Callable[[jsonrpc.Params], Awaitable[bytes]]
"""Params → raw result, each time as a request of its own. Raises RpcError, UpstreamError."""


def envelope(call: Call, params: jsonrpc.Params, version: str, id: int) -> tuple[jsonrpc.Params, Raw | None]:
    """`params` with all that a modern request says of its client, and the client's progress token if it gave one."""
    raw = params.get("_meta")
    given = {} if raw is None else jsonrpc.object_of(raw)
    meta = meta_of(call.client, version) | {key: value for key, value in given.items() if key not in OURS}
    if call.log_level is not None:
        meta[LOG_LEVEL_META] = jsonrpc.raw(call.log_level)
    token = given.get("progressToken")
    if token is not None:
        meta["progressToken"] = jsonrpc.raw(id)
        token = Raw(bytes(token))
    return params | {"_meta": jsonrpc.raw(meta)}, token


def meta_of(client: Client, version: str) -> jsonrpc.Params:
    """The part of the envelope that is the same for all requests of a client."""
    build = _meta if len(client.capabilities) + len(client.client_info) <= REMEMBERED_BYTES else _meta.__wrapped__
    return build(client.capabilities, client.client_info, client.version, version)


@lru_cache(256)
def _meta(capabilities: bytes, client_info: bytes, spoken: str, version: str) -> jsonrpc.Params:
    return {
        VERSION_META: jsonrpc.raw(version),
        CAPABILITIES_META: jsonrpc.raw(declared(capabilities, spoken)),
        CLIENT_INFO_META: Raw(client_info if client_info != b"{}" else GATEWAY_INFO),
    }


def declared(capabilities: bytes, spoken: str) -> jsonrpc.Params:
    """What a client that speaks the revision `spoken` declared, as far as a modern server can make use of it."""
    fields = jsonrpc.object_of(capabilities)
    if revisions.is_modern(spoken):
        return fields
    fields.pop("tasks", None)  # those of 2025-11-25, which have only the name in common with the extension
    if "extensions" in fields:
        extensions = jsonrpc.object_of(fields["extensions"])
        extensions.pop(TASKS, None)
        fields["extensions"] = jsonrpc.raw(extensions)
    if "elicitation" in fields and spoken < FIRST_WITH_URLS:
        fields["elicitation"] = Raw(b"{}")
    return fields


def has_tasks(client: Client) -> bool:
    """Whether a client declared the tasks extension."""
    if not revisions.is_modern(client.version) or TASKS.encode() not in client.capabilities:
        return False
    return TASKS in jsonrpc.object_of(jsonrpc.object_of(client.capabilities).get("extensions", Raw(b"{}")))


class _Question(msgspec.Struct):
    method: str
    params: jsonrpc.Params = {}


class _Kind(msgspec.Struct, rename="camel"):
    """What kind of result it is. Servers of earlier drafts do not say: then it is the answer."""

    result_type: str = "complete"


class _Round(msgspec.Struct, rename="camel"):
    """The parts of an InputRequiredResult. `request_state` stays as it was written: only the server can read it."""

    input_requests: dict[str, _Question] = {}
    request_state: Raw = Raw(b"")


_kind = msgspec.json.Decoder(_Kind)
_round = msgspec.json.Decoder(_Round)


async def in_rounds(upstream: str, call: Call, channel: Channel, send: Send, sweep: Sweep) -> bytes:
    """The raw result of `call`, once its client has been asked all that the server wants to know.

    A modern client is given the questions instead, raw: it sends the call again by itself. Raises RpcError with a client's
    refusal, BadAnswer where the server asks what it may not, or asks without end.
    """
    result = await send(call.params)
    if revisions.is_modern(call.client.version):
        return result
    pause_seconds = FIRST_PAUSE_SECONDS
    for _ in range(MAX_ROUNDS):
        if not _asks(upstream, call, result):
            return result
        asked = _decoded(upstream, result)
        if asked.input_requests:
            pause_seconds = FIRST_PAUSE_SECONDS
            answers = await _answers(upstream, call, channel, asked.input_requests)
        else:
            answers = None
            await pause(sweep, pause_seconds)
            pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        result = await send(_again(call.params, answers, asked.request_state))
    if _asks(upstream, call, result):
        raise BadAnswer(upstream, f"it asks for input again after {MAX_ROUNDS} rounds")
    return result


def _asks(upstream: str, call: Call, result: bytes) -> bool:
    """Whether a result is a question. Raises BadAnswer where it is neither that nor an answer."""
    try:
        kind = _kind.decode(result).result_type
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadAnswer(upstream, f"its result cannot be read: {error}") from error
    if kind == "input_required" and call.method in WITH_ROUNDS:
        return True
    if kind != "complete":
        raise BadAnswer(upstream, f"its result to {call.method} is of the kind {kind[:40]!r}, which nobody declared to take")
    return False


def _decoded(upstream: str, result: bytes) -> _Round:
    try:
        asked = _round.decode(result)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadAnswer(upstream, f"its questions cannot be read: {error}") from error
    if not asked.input_requests and not asked.request_state:
        raise BadAnswer(upstream, "it asks for input without saying which")
    if len(asked.input_requests) > MAX_QUESTIONS:
        raise BadAnswer(upstream, f"it asks {len(asked.input_requests)} questions at once")
    return asked


def _again(params: jsonrpc.Params, answers: Mapping[str, Raw] | None, state: Raw) -> jsonrpc.Params:
    """The params of the next round: nothing of earlier rounds stays."""
    fields = {name: value for name, value in params.items() if name not in ("inputResponses", "requestState")}
    if answers is not None:
        fields["inputResponses"] = jsonrpc.raw(answers)
    if state:
        fields["requestState"] = state
    return fields


async def _answers(upstream: str, call: Call, channel: Channel, questions: dict[str, _Question]) -> dict[str, Raw]:
    """The client's answers, all asked for at once. Raises RpcError with its first refusal; the other questions then end."""
    known = declared(call.client.capabilities, call.client.version)
    for question in questions.values():
        _check(upstream, question, known)
    tasks = {
        key: spawn(_ask(channel, question), f"{question.method[:40]} of {upstream}") for key, question in questions.items()
    }
    try:
        waiting = set(tasks.values())
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if isinstance(refused := task.result(), RpcError):
                    raise refused
        return {key: Raw(answer) for key, task in tasks.items() if isinstance(answer := task.result(), bytes)}
    finally:
        for task in tasks.values():
            task.cancel()


def _check(upstream: str, question: _Question, known: jsonrpc.Params) -> None:
    """Raise BadAnswer unless the client declared that it answers such a question."""
    capability = ASKABLE.get(question.method)
    if capability is None:
        raise BadAnswer(upstream, f"it asks {question.method[:40]!r}, which no client can be asked")
    if capability not in known or (_mode(question) == "url" and not _takes_urls(known[capability])):
        raise BadAnswer(upstream, f"it asks {question.method}, which the client did not declare to answer in that form")


def _mode(question: _Question) -> str:
    return bytes(question.params.get("mode", b'"form"')).decode("utf-8", "replace").strip('"')


def _takes_urls(elicitation: Raw) -> bool:
    return "url" in jsonrpc.object_of(elicitation)


async def _ask(channel: Channel, question: _Question) -> bytes | RpcError:
    # A refusal is a result: a task that failed would be reported as a fault of ours.
    try:
        return await channel.ask(question.method, _legacy_params(question))
    except RpcError as error:
        return error


def _legacy_params(question: _Question) -> bytes:
    """A question's params as the neutral form has them: 2025-11-25 gives each visit to a URL a name, later ones none."""
    if question.method == "elicitation/create" and _mode(question) == "url":
        question.params.setdefault("elicitationId", jsonrpc.raw(secrets.token_urlsafe(12)))
    return msgspec.json.encode(question.params)


class _Pause:
    """See `runtime.Expiring`."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.over = asyncio.get_running_loop().create_future()
        self.expire = partial(_settle, self.over)

    def __repr__(self) -> str:
        return f"<_Pause until {self.deadline:g}>"


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def pause(sweep: Sweep, seconds: float) -> None:
    """Return after a while, by the sweep's clock."""
    entry = _Pause(sweep.now() + seconds)
    sweep.watch(entry)
    try:
        await entry.over
    finally:
        sweep.forget(entry)
