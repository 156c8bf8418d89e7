"""Servers that ask modern clients: legacy ones whose call waits meanwhile, between the rounds of one request."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpgateway import runtime
from mcpgateway.downstream.parked import GRACE_SECONDS, PARKED_SECONDS
from tests.clients.modern_wire import EVERYTHING, ModernWire
from tests.clients.wire import Message
from tests.fakes.callers import bearer, letting_in
from tests.fakes.gateway import one, serving
from tests.fakes.moved_time import moved_time
from tests.fakes.process import Server
from tests.servers.asking_stub import AskingStub

NAMES = [f"user-{number}" for number in range(10)]
AUTH = letting_in(*NAMES)

WHO = {"method": "elicitation/create", "params": {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}}}
ROOTS = {"method": "roots/list"}
SAMPLE = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 5}}
URL = "https://pay.example.com/1"
VISIT = {
    "method": "elicitation/create",
    "params": {"mode": "url", "message": "pay", "url": URL, "elicitationId": "e-1"},
}
YES = {"action": "accept", "content": {}}


@pytest.fixture
async def stub() -> AsyncIterator[AskingStub]:
    async with AskingStub() as server:
        yield server


def ask(*rounds: list[Message]) -> Message:
    """The params of a call that asks these questions, round after round."""
    return {"name": "ask", "arguments": {"rounds": list(rounds)}}


def questions_of(response: Message) -> Message:
    result: Message = response["result"]
    assert result["resultType"] == "input_required", response
    questions: Message = result["inputRequests"]
    return questions


def told_of(response: Message) -> list[Any]:
    """What the server was told in the end."""
    assert response["result"]["resultType"] == "complete", response
    told: list[Any] = json.loads(response["result"]["content"][0]["text"])
    return told


async def test_a_question_comes_as_a_result_and_its_answer_with_the_next_request(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up"), capabilities=EVERYTHING) as wire:
            call = ask([WHO], [ROOTS])
            asked = await wire.request("tools/call", call)
            ((key, question),) = questions_of(asked).items()
            assert question == WHO
            again = await wire.again("tools/call", call, asked, {key: YES})
            ((second, question),) = questions_of(again).items()
            assert question["method"] == "roots/list"
            assert told_of(await wire.again("tools/call", call, again, {second: {"roots": []}})) == [YES, {"roots": []}]
            assert len(stub.of("tools/call")) == 1


async def test_questions_asked_together_come_together_and_extra_answers_are_left(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.url, capabilities=EVERYTHING) as wire:
            call = {**ask([WHO, ROOTS, SAMPLE]), "name": "up__ask"}
            asked = await wire.request("tools/call", call)
            questions = questions_of(asked)
            assert {each["method"] for each in questions.values()} == {WHO["method"], ROOTS["method"], SAMPLE["method"]}
            answers = {key: {"for": each["method"]} for key, each in questions.items()} | {"unknown": {}}
            told = told_of(await wire.again("tools/call", call, asked, answers))
            assert told == [{"for": each["method"]} for each in (WHO, ROOTS, SAMPLE)]


async def test_an_answer_that_is_missing_is_asked_for_again(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up"), capabilities=EVERYTHING) as wire:
            call = ask([WHO, ROOTS])
            asked = await wire.request("tools/call", call)
            by_method = {each["method"]: key for key, each in questions_of(asked).items()}
            again = await wire.again("tools/call", call, asked, {by_method["roots/list"]: {"roots": []}})
            assert questions_of(again).keys() == {by_method["elicitation/create"]}
            once_more = await wire.again("tools/call", call, again, {})
            done = await wire.again("tools/call", call, once_more, {by_method["elicitation/create"]: YES})
            assert told_of(done) == [YES, {"roots": []}]


async def test_c5_fifty_calls_in_flight_each_ask_their_own_caller(stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url, AUTH)) as gateway, contextlib.AsyncExitStack() as stack, asyncio.timeout(20):
        callers = [
            await stack.enter_async_context(ModernWire(gateway.server("up"), bearer(name), capabilities=EVERYTHING))
            for name in NAMES
        ]
        wires = callers * 5
        calls = [elicit(f"question {number}") for number in range(50)]
        asked = await asyncio.gather(*(wire.request("tools/call", call) for wire, call in zip(wires, calls, strict=True)))
        assert len(gateway.gateway._modern._rounds.parked) == 50
        answers = []
        for number, response in enumerate(asked):
            ((key, question),) = questions_of(response).items()
            assert question["params"]["message"] == f"question {number}"
            answers.append({key: {"action": "accept", "content": {"name": f"{number}"}}})
        assert "error" in await callers[1].again("tools/call", calls[0], asked[0], answers[0])
        done = await asyncio.gather(
            *(wire.again("tools/call", *each) for wire, *each in zip(wires, calls, asked, answers, strict=True))
        )
        assert [each["result"]["content"][0]["text"] for each in done] == [f"accept {number}" for number in range(50)]
        await gateway.until(lambda: not gateway.gateway._modern.busy)


def elicit(question: str) -> Message:
    return {"name": "elicit", "arguments": {"question": question}}


async def test_c5_a_state_is_worth_nothing_to_anybody_else_nor_for_anything_else(stub: AskingStub) -> None:
    async with serving(one(stub.url, AUTH)) as gateway, asyncio.timeout(20):
        async with (
            ModernWire(gateway.server("up"), bearer(NAMES[0]), capabilities=EVERYTHING) as alice,
            ModernWire(gateway.server("up"), bearer(NAMES[1]), capabilities=EVERYTHING) as eve,
        ):
            call = ask([WHO])
            asked = await alice.request("tools/call", call)
            (key,) = questions_of(asked)
            state = asked["result"]["requestState"]
            tampered = {"result": {"requestState": state[:-6] + ("A" if state[-6] != "A" else "B") + state[-5:]}}
            refused = [
                await eve.again("tools/call", call, asked, {key: YES}),
                await alice.again("tools/call", ask([ROOTS]), asked, {key: YES}),
                await alice.again("tools/call", call, tampered, {key: YES}),
            ]
            assert {each["error"]["code"] for each in refused} == {-32602}
            assert len({each["error"]["message"] for each in refused}) == 1
            assert told_of(await alice.again("tools/call", call, asked, {key: YES})) == [YES]
            gone = await alice.again("tools/call", call, asked, {key: YES})
            assert gone["error"]["code"] == -32602 and "state expired" in gone["error"]["message"]


async def test_a_call_whose_client_never_comes_back_is_cleaned_up(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up"), capabilities=EVERYTHING) as wire:
        async with asyncio.timeout(20):
            call = ask([WHO])
            asked = await wire.request("tools/call", call)
            assert stub.asking == 1 and gateway.gateway.pool.get_metrics()["leased"] == 1
            with moved_time(gateway) as time:
                time.passes(PARKED_SECONDS)
                await gateway.until(lambda: stub.asking == 0)
                await gateway.until(lambda: not gateway.gateway._modern.busy)
                time.passes(GRACE_SECONDS)
                late = await wire.again("tools/call", call, asked, {})
            assert late["error"]["code"] == -32602
            assert gateway.gateway.pool.get_metrics()["leased"] == 0
            assert (await wire.call("counter"))["result"]["resultType"] == "complete"


async def test_a_call_that_waits_survives_its_clients_connection(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        call = ask([WHO])
        async with ModernWire(gateway.server("up"), capabilities=EVERYTHING) as wire:
            asked = await wire.request("tools/call", call)
        async with ModernWire(gateway.server("up"), capabilities=EVERYTHING) as later:
            (key,) = questions_of(asked)
            assert told_of(await later.again("tools/call", call, asked, {key: YES})) == [YES]
        assert stub.cancelled == []


async def test_a_client_that_leaves_after_its_answer_takes_the_call_back(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up"), capabilities=EVERYTHING) as wire:
            call = {"name": "ask", "arguments": {"rounds": [[WHO]], "hang": True}}
            asked = await wire.request("tools/call", call)
            (key,) = questions_of(asked)
            answering = asyncio.create_task(wire.again("tools/call", call, asked, {key: YES}))
            await gateway.until(lambda: stub.asking == 0)
            answering.cancel()
            await gateway.until(lambda: len(stub.cancelled) == 1)
            await gateway.until(lambda: not gateway.gateway._modern.busy)


@pytest.mark.parametrize(
    ("declared", "question", "required"),
    [
        ({}, WHO, {"elicitation": {}}),
        ({"roots": {}}, SAMPLE, {"sampling": {}}),
        ({"elicitation": {}}, VISIT, {"elicitation": {"url": {}}}),
    ],
)
async def test_what_a_client_did_not_declare_it_is_never_asked(
    declared: Message, question: Message, required: Message, stub: AskingStub
) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up"), capabilities=declared) as wire:
            (told,) = told_of(await wire.request("tools/call", ask([question])))
            assert told["code"] == -32601
            strict = wire.request_message("tools/call", {"name": "ask", "arguments": {"rounds": [[question]], "strict": True}})
            reply = await wire.post(strict)
            assert (reply.status, reply.message["error"]["code"]) == (400, -32021)
            assert reply.message["error"]["data"]["requiredCapabilities"] == required


async def test_a_visit_to_a_url_is_asked_for_without_the_name_that_modern_clients_do_not_know(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up"), capabilities=EVERYTHING) as wire:
            asked = await wire.request("tools/call", ask([VISIT]))
            ((key, question),) = questions_of(asked).items()
            assert question["params"] == {"mode": "url", "message": "pay", "url": URL}
            assert told_of(await wire.again("tools/call", ask([VISIT]), asked, {key: {"action": "accept"}}))


def needs_visit() -> Message:
    elicitation = {"mode": "url", "elicitationId": "e-1", "url": URL, "message": "pay"}
    error = {"code": -32042, "message": "pay first", "data": {"elicitations": [elicitation]}}
    return {"name": "fails", "arguments": {"error": error}}


async def test_an_error_that_asks_for_a_visit_becomes_a_question_and_the_call_is_made_again(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up"), capabilities=EVERYTHING) as wire:
            asked = await wire.request("tools/call", needs_visit())
            ((key, question),) = questions_of(asked).items()
            assert question["params"] == {"mode": "url", "message": "pay", "url": URL}
            again = await wire.again("tools/call", needs_visit(), asked, {key: {"action": "accept"}})
            assert questions_of(again).keys() == {key} and len(stub.of("tools/call")) == 2
            declined = await wire.again("tools/call", needs_visit(), again, {key: {"action": "decline"}})
            assert "did not" in declined["error"]["message"] and len(stub.of("tools/call")) == 2
        async with ModernWire(gateway.server("up"), capabilities={"elicitation": {}}) as unable:
            reply = await unable.post(unable.request_message("tools/call", needs_visit()))
            assert (reply.status, reply.message["error"]["code"]) == (400, -32021)


async def test_a_gateway_that_drains_waits_for_calls_that_wait_and_lets_their_answers_in(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up"), capabilities=EVERYTHING) as wire:
            call = ask([WHO])
            asked = await wire.request("tools/call", call)
            gateway.gateway.drain()
            draining = asyncio.create_task(gateway.gateway.quiet())
            assert (await wire.post(wire.request_message("tools/list"))).status == 503
            assert not draining.done()
            (key,) = questions_of(asked)
            assert told_of(await wire.again("tools/call", call, asked, {key: YES})) == [YES]
            await draining


async def test_a_gateway_that_stops_leaves_no_call_that_waits(stub: AskingStub) -> None:
    async with asyncio.timeout(20):
        async with serving(one(stub.url)) as gateway:
            async with ModernWire(gateway.server("up"), capabilities=EVERYTHING) as wire:
                await wire.request("tools/call", ask([WHO]))
        assert "a call that may ask" not in runtime.running_tasks()
