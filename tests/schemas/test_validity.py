"""The oracle itself: it takes what the specification allows, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.wire import Wire
from tests.fakes.stub_server import StubServer
from tests.schemas.validity import INPUT_REQUIRED, LATEST_LEGACY, REVISIONS, fault

MODERN = "2026-07-28"
ELICIT = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}}


def result(**fields: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "result": fields}


def error(code: int, id: object = 1, **data: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "m", "data": data}}


def said(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def text(revision: str) -> dict[str, Any]:
    complete = {"resultType": "complete"} if revision == MODERN else {}
    return result(content=[{"type": "text", "text": "t"}], **complete)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_plain_result_is_valid_in_every_revision(revision: str) -> None:
    assert fault(text(revision), revision, "client", "tools/call") is None
    assert "required" in str(fault(text(revision), revision, "client", "tools/list"))


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_has_no_meaning_is_no_message(revision: str) -> None:
    for nonsense in ([], "x", None, {"id": 1, "result": {}}):
        assert "no JSON-RPC message" in str(fault(nonsense, revision))
    for incomplete in ({"id": 1}, {"result": {}}, {"id": 1, "error": "e"}, {"id": {}, "method": "ping"}):
        assert fault({"jsonrpc": "2.0"} | incomplete, revision) is not None


def test_a_revision_knows_only_its_own_kinds_of_content() -> None:
    sound = result(content=[{"type": "audio", "data": "AA==", "mimeType": "audio/wav"}])
    assert fault(sound, "2025-03-26", "client", "tools/call") is None
    assert fault(sound, "2024-11-05", "client", "tools/call") is not None


def test_questions_go_to_clients_of_the_handshake_revisions_alone() -> None:
    question = ELICIT | {"jsonrpc": "2.0", "id": 1}
    assert fault(question, LATEST_LEGACY) is None
    assert fault(question, "2025-03-26") is not None
    assert fault(question, MODERN) is not None
    assert fault(question, LATEST_LEGACY, "server") is not None


def test_notifications_need_their_revision_and_direction() -> None:
    done = said("notifications/elicitation/complete", elicitationId="e")
    assert fault(done, LATEST_LEGACY) is None
    assert fault(done, "2025-06-18") is not None
    assert fault(done, MODERN) is not None
    assert fault(said("notifications/initialized"), LATEST_LEGACY, "server") is None
    assert fault(said("notifications/initialized"), LATEST_LEGACY, "client") is not None


@pytest.mark.parametrize("method", INPUT_REQUIRED)
def test_a_question_may_stand_for_some_modern_results(method: str) -> None:
    asking = result(resultType="input_required", inputRequests={"k": ELICIT})
    assert fault(asking, MODERN, "client", method) is None
    assert fault(result(resultType="input_required", inputRequests={"k": 1}), MODERN, "client", method) is not None
    assert fault(result(content=[]), MODERN, "client", method) is not None


def test_no_question_stands_for_other_results() -> None:
    assert fault(result(resultType="input_required", inputRequests={"k": ELICIT}), MODERN, "client", "tools/list") is not None


def test_a_modern_result_needs_all_that_its_method_asks_for() -> None:
    listed = {"resultType": "complete", "tools": [], "ttlMs": 0, "cacheScope": "private"}
    assert fault(result(**listed), MODERN, "client", "tools/list") is None
    for key in listed:
        less = {name: value for name, value in listed.items() if name != key}
        assert fault(result(**less), MODERN, "client", "tools/list") is not None


def test_what_an_extension_gives_is_not_judged() -> None:
    assert fault(result(resultType="task", taskId="t"), MODERN, "client", "tools/call") is None


def test_errors_with_a_shape_of_their_own_must_have_it() -> None:
    assert fault(error(-32022, supported=[MODERN], requested="x"), MODERN) is None
    assert fault(error(-32022), MODERN) is not None
    assert fault(error(-32022), LATEST_LEGACY) is None
    assert fault(error(-32042), LATEST_LEGACY) is not None


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_id_that_could_not_be_read_is_left_out_and_not_null(revision: str) -> None:
    assert fault(error(-32700, None), revision) is not None
    without = {key: value for key, value in error(-32700).items() if key != "id"}
    assert fault(without, revision) is None


async def test_a_wire_refuses_what_is_invalid_unless_the_test_says_why(stub: StubServer) -> None:
    await stub.do(raw_result='{"content":[{"type":"hologram"}]}')
    async with Wire(stub.url) as wire:
        await wire.initialize()
        with pytest.raises(AssertionError, match=r"does not allow: .*CallToolResult.*content\[0\]"):
            await wire.call("echo")
        async with wire.exchange(wire.request_message("tools/call", {"name": "echo"})) as messages:
            with pytest.raises(AssertionError, match="does not allow"):
                await anext(messages)
        wire.unchecked = "the test invents content"
        assert (await wire.call("echo"))["result"]["content"] == [{"type": "hologram"}]
