"""The answer to one POST."""

from __future__ import annotations

import asyncio
import json

import pytest

from mcpgateway import runtime
from mcpgateway.auth.principals import Principal
from mcpgateway.downstream.event_store import RETURN_SECONDS, EventStore
from mcpgateway.downstream.event_stream import KEEPALIVE_SECONDS, QUEUED_EVENTS
from mcpgateway.downstream.reply import SessionReply
from mcpgateway.downstream.sessions import ClientSession
from mcpgateway.errors import RpcError
from mcpgateway.protocol import jsonrpc
from mcpgateway.runtime import Sweep
from mcpgateway.services.views import View
from tests.fakes.clock import FakeClock
from tests.fakes.until import until
from tests.unit.downstream.asgi import Exchange

ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{}}'


class Rig:
    """One POST under way."""

    def __init__(self, clock: FakeClock, revision: str = "2025-06-18") -> None:
        self.clock = clock
        self.sweep = Sweep(clock)
        self.exchange = Exchange(b"the request")
        self.session = ClientSession(
            Principal("static", "alice"), View({}, single=False), revision, b'{"elicitation":{}}', b"{}", self.sweep
        )
        self.reply = SessionReply(self.session, self.exchange.asgi(), self.sweep, EventStore(self.sweep))

    def answer(self, question: dict[str, object]) -> None:
        said = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}
        self.session.answered(jsonrpc.decode(json.dumps(said).encode()))


@pytest.fixture
async def rig(clock: FakeClock) -> Rig:
    rig = Rig(clock)
    await rig.exchange.receive()  # as the application does before it answers
    return rig


async def test_an_answer_alone_is_plain_json(rig: Rig) -> None:
    await rig.reply.finish(200, [ANSWER], [(b"x-more", b"1")])
    assert rig.exchange.body == ANSWER and rig.exchange.headers["content-type"] == "application/json"
    assert rig.exchange.headers["x-more"] == "1" and len(rig.sweep) == 0


async def test_the_answers_of_a_batch_are_one_array(rig: Rig) -> None:
    await rig.reply.finish(200, [ANSWER, ANSWER], batch=True)
    assert len(json.loads(rig.exchange.body)) == 2


async def test_what_is_said_before_the_answer_makes_it_an_event_stream(rig: Rig) -> None:
    rig.reply.notify("notifications/progress", b'{"progress":1}')
    await rig.reply.finish(429, [ANSWER])
    assert rig.exchange.status == 200 and [message.get("id") for message in rig.exchange.messages] == [None, 1]
    assert rig.exchange.complete and len(rig.sweep) == 0 and runtime.running_tasks() == []


async def test_the_answer_reaches_a_reader_who_was_too_far_behind_for_the_progress(rig: Rig) -> None:
    rig.exchange.reads.clear()
    for _ in range(QUEUED_EVENTS * 2):
        rig.reply.notify("notifications/progress", b"{}")
    finishing = asyncio.create_task(rig.reply.finish(200, [ANSWER]))
    await asyncio.sleep(0)  # its answer is among what waits to be read
    rig.exchange.reads.set()
    async with asyncio.timeout(5):
        await finishing
    assert rig.exchange.messages[-1]["id"] == 1 and len(rig.exchange.messages) <= QUEUED_EVENTS + 2


async def test_a_long_call_shows_signs_of_life(rig: Rig) -> None:
    rig.clock.advance(KEEPALIVE_SECONDS)
    rig.sweep.expire_due()
    await rig.reply.finish(200, [ANSWER])
    assert b": keep-alive" in rig.exchange.body and rig.exchange.messages == [json.loads(ANSWER)]


async def test_a_question_is_put_on_the_calls_own_stream(rig: Rig) -> None:
    asking = asyncio.create_task(rig.reply.ask("elicitation/create", b'{"message":"?"}'))
    (question,) = await rig.exchange.until_messages(1)
    assert question["method"] == "elicitation/create" and question["params"] == {"message": "?"}
    rig.answer(question)
    assert json.loads(await asking) == {"action": "accept"}
    await rig.reply.finish(200, [ANSWER])
    assert runtime.running_tasks() == []


async def test_c5_a_client_that_leaves_while_it_is_asked_answers_nothing(rig: Rig) -> None:
    asking = asyncio.create_task(rig.reply.ask("elicitation/create", b"{}"))
    await rig.exchange.until_messages(1)
    rig.exchange.leave()
    async with asyncio.timeout(5):
        with pytest.raises(RpcError, match="-32603"):
            await asking
        with pytest.raises(RpcError, match="-32603"):
            await rig.reply.ask("elicitation/create", b"{}")
        await rig.reply.finish(200, [ANSWER])
    assert runtime.running_tasks() == [] and len(rig.sweep) == 0


async def test_a_client_that_had_left_before_it_was_asked_answers_nothing(rig: Rig) -> None:
    rig.exchange.leave()
    async with asyncio.timeout(5):
        with pytest.raises(RpcError, match="-32603"):
            await rig.reply.ask("elicitation/create", b"{}")
        await rig.reply.abandon()
    assert runtime.running_tasks() == []


async def test_a_reply_that_is_cancelled_at_its_end_leaves_nothing(rig: Rig) -> None:
    rig.exchange.reads.clear()
    rig.reply.notify("notifications/progress", b"{}")
    finishing = asyncio.create_task(rig.reply.finish(200, [ANSWER]))
    await asyncio.sleep(0)
    finishing.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await finishing
    assert runtime.running_tasks() == [] and len(rig.sweep) == 0


async def test_c5_a_client_that_may_come_back_is_waited_for_and_then_answers_nothing(clock: FakeClock) -> None:
    rig = Rig(clock, "2025-11-25")
    await rig.exchange.receive()
    asking = asyncio.create_task(rig.reply.ask("elicitation/create", b"{}"))
    await rig.exchange.until_messages(1)
    rig.exchange.leave()
    (kept,) = rig.session.kept.values()
    await until(lambda: kept.deadline > 0)
    for seconds, over in ((RETURN_SECONDS - 1, False), (1, True)):
        clock.advance(seconds)
        rig.sweep.expire_due()
        assert kept.absent is over
    async with asyncio.timeout(5):
        for question in (asking, rig.reply.ask("elicitation/create", b"{}")):
            with pytest.raises(RpcError, match="-32603"):
                await question
        await rig.reply.finish(200, [ANSWER])
    assert runtime.running_tasks() == [] and b"result" in kept.pile.after(0)[-1]
