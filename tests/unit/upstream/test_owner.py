"""The owner of a session: what belongs to whom, and what happens when something ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpgateway import runtime
from mcpgateway.errors import (
    AuthRefused,
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    Incompatible,
    RpcError,
    SessionLost,
    UpstreamError,
    UpstreamTimeout,
)
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Target
from mcpgateway.upstream.owner import MAX_QUESTIONS, OwnedSession, open_session
from tests.fakes.clock import FakeClock
from tests.fakes.peers import Ear, call
from tests.fakes.wire import FakeWire

TARGET = Target(name="crm", open_timeout_seconds=5.0)
WELCOME = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}}


class World:
    """An open session with everything around it in the test's hands."""

    def __init__(self, wire: FakeWire, session: OwnedSession, sweep: Sweep, clock: FakeClock) -> None:
        self.wire = wire
        self.session = session
        self.sweep = sweep
        self.clock = clock
        self.listener = Ear()
        session.listener = self.listener

    def ask(self, channel: Ear | None = None, **params: Any) -> asyncio.Task[bytes]:
        return asyncio.create_task(self.session.request(call("tools/call", **params), channel or Ear()))

    async def begin(self, channel: Ear | None = None, **params: Any) -> tuple[asyncio.Task[bytes], int]:
        """A request that has been posted, and its id upstream."""
        task = self.ask(channel, **params)
        return task, (await self.wire.next())["id"]

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.sweep.expire_due()


async def opened(wire: FakeWire, sweep: Sweep) -> OwnedSession:
    opening = asyncio.create_task(open_session(TARGET, wire, Hello(), b"", sweep))
    hello = await wire.next()
    assert hello["method"] == "initialize"
    wire.say(id=hello["id"], result=WELCOME)
    assert (await wire.next())["method"] == "notifications/initialized"
    return await opening


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock, wire = FakeClock(), FakeWire()
    sweep = Sweep(clock, tick_seconds=3600)
    session = await opened(wire, sweep)
    yield World(wire, session, sweep, clock)
    wire.closes.set()
    await session.aclose()
    assert wire.closed == 1
    assert len(sweep) == 0
    sweep.close()


async def done(task: asyncio.Task[bytes]) -> bytes:
    async with asyncio.timeout(5):
        return await task


async def test_the_welcome_is_kept(world: World) -> None:
    assert world.session.welcome.protocol_version == "2025-06-18"
    assert json.loads(world.session.welcome.raw) == WELCOME
    assert world.session.stateful
    assert not world.session.closed


async def test_c3_concurrent_calls_get_their_own_answers_in_any_order(world: World) -> None:
    first, first_id = await world.begin()
    second, second_id = await world.begin()
    assert first_id != second_id
    world.wire.say(id=second_id, result={"n": 2})
    world.wire.say(id=first_id, result={"n": 1})
    assert json.loads(await done(first)) == {"n": 1}
    assert json.loads(await done(second)) == {"n": 2}


async def test_c4_a_result_arrives_byte_for_byte(world: World) -> None:
    task, id = await world.begin()
    result = b'{ "a":1e999, "a":12345678901234567890123,"\\u00e9": "\xc3\xa9" }'
    world.wire.say_raw(b'{"jsonrpc":"2.0","result":%b,"id":%d}' % (result, id))
    assert await done(task) == result


async def test_an_error_answer_is_raised_as_it_came(world: World) -> None:
    task, id = await world.begin()
    world.wire.say(id=id, error={"code": -32002, "message": "no", "data": {"uri": "x"}})
    with pytest.raises(RpcError) as caught:
        await done(task)
    assert json.loads(caught.value.error) == {"code": -32002, "message": "no", "data": {"uri": "x"}}


async def test_a_response_without_result_or_error_is_a_bad_answer(world: World) -> None:
    task, id = await world.begin()
    world.wire.say(id=id)
    with pytest.raises(BadAnswer, match="neither result nor error"):
        await done(task)


async def test_answers_that_nobody_waits_for_are_ignored(world: World) -> None:
    task, id = await world.begin()
    for stray in (id + 7, str(id), None):
        world.wire.say(id=stray, result={"stray": True})
    world.wire.say(id=id, result={})
    world.wire.say(id=id, result={"again": True})
    assert await done(task) == b"{}"


async def test_what_is_no_message_is_skipped(world: World, caplog: pytest.LogCaptureFixture) -> None:
    task, id = await world.begin()
    for body in (b"starting up...", b"[1", b'{"params":3}', b"\xff", b'"text"'):
        world.wire.say_raw(body)
    world.wire.say(id=id, result={})
    assert await done(task) == b"{}"
    assert "starting up" in caplog.text


async def test_a_batch_is_taken_apart(world: World) -> None:
    first, first_id = await world.begin()
    second, second_id = await world.begin()
    parts = [{"jsonrpc": "2.0", "id": id, "result": {"id": id}} for id in (first_id, second_id)]
    world.wire.say_raw(json.dumps(parts).encode())
    assert json.loads(await done(first)) == {"id": first_id}
    assert json.loads(await done(second)) == {"id": second_id}


async def test_c3_progress_goes_to_its_call_under_the_clients_own_token(world: World) -> None:
    ears = Ear(), Ear()
    first, first_id = await world.begin(ears[0], token="same")
    second, second_id = await world.begin(ears[1], token="same")
    world.wire.say(method="notifications/progress", params={"progressToken": second_id, "progress": 2, "new": [1]})
    world.wire.say(method="notifications/progress", params={"progressToken": first_id, "progress": 1})
    assert await ears[0].next() == ("notifications/progress", {"progressToken": "same", "progress": 1})
    assert await ears[1].next() == ("notifications/progress", {"progressToken": "same", "progress": 2, "new": [1]})
    for id, task in ((first_id, first), (second_id, second)):
        world.wire.say(id=id, result={})
        await done(task)


async def test_progress_for_no_token_of_ours_reaches_nobody(world: World) -> None:
    ear = Ear()
    task, id = await world.begin(ear, token="mine")
    silent, silent_id = await world.begin(ear)
    for token in (str(id), float(id) + 0.5, True, id + 9, None, [id], silent_id):
        world.wire.say(method="notifications/progress", params={"progressToken": token, "progress": 1})
    world.wire.say(method="notifications/progress", params={"progress": 1})
    world.wire.say(id=id, result={})
    world.wire.say(method="notifications/progress", params={"progressToken": id, "progress": 3})
    world.wire.say(id=silent_id, result={})
    await done(task)
    await done(silent)
    assert ear.heard.empty()
    assert world.listener.heard.empty()


async def test_c5_log_messages_belong_to_the_only_call(world: World) -> None:
    ear = Ear()
    task, id = await world.begin(ear)
    world.wire.say(method="notifications/message", params={"level": "info", "data": 1})
    assert await ear.next() == ("notifications/message", {"level": "info", "data": 1})
    other, other_id = await world.begin(Ear())
    world.wire.say(method="notifications/message", params={"level": "info", "data": 2})
    assert (await world.listener.next())[1]["data"] == 2
    for call_id, waiting in ((id, task), (other_id, other)):
        world.wire.say(id=call_id, result={})
        await done(waiting)
    world.wire.say(method="notifications/message", params={"level": "info", "data": 3})
    assert (await world.listener.next())[1]["data"] == 3
    assert ear.heard.empty()


async def test_c6_what_belongs_to_no_call_goes_to_the_listener(world: World) -> None:
    ear = Ear()
    task, id = await world.begin(ear)
    world.wire.say(method="notifications/tools/list_changed")
    world.wire.say(method="notifications/resources/updated", params={"uri": "a:b"})
    assert await world.listener.next() == ("notifications/tools/list_changed", {})
    assert await world.listener.next() == ("notifications/resources/updated", {"uri": "a:b"})
    world.wire.say(id=id, result={})
    await done(task)
    assert ear.heard.empty()


async def test_a_listener_that_fails_ends_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Ear):
        def notified(self, method: str, params: bytes) -> None:
            raise LookupError("out of order")

    world.session.listener = Faulty()
    task, id = await world.begin()
    world.wire.say(method="notifications/tools/list_changed")
    world.wire.say(id=id, result={})
    assert await done(task) == b"{}"
    assert "out of order" in caplog.text


async def test_c5_a_question_goes_to_the_client_of_the_only_call(world: World) -> None:
    ear = Ear()
    task, id = await world.begin(ear, headers=b"X: 1\r\n")
    world.wire.say(id="q1", method="elicitation/create", params={"message": "who?"})
    assert await ear.next_question() == ("elicitation/create", {"message": "who?"})
    ear.answer.set_result(b'{"action":"accept"}')
    answer, headers = await world.wire.next_with_headers()
    assert answer == {"jsonrpc": "2.0", "id": "q1", "result": {"action": "accept"}}
    assert headers == b"X: 1\r\n"
    world.wire.say(id=id, result={})
    await done(task)


async def test_c5_a_question_during_several_calls_goes_to_the_listener(world: World) -> None:
    ears = Ear(), Ear()
    tasks = [await world.begin(ear) for ear in ears]
    world.wire.say(id=1, method="roots/list")
    assert await world.listener.next_question() == ("roots/list", {})
    world.listener.answer.set_exception(RpcError.of(-1, "user rejected"))
    assert (await world.wire.next())["error"] == {"code": -1, "message": "user rejected"}
    for task, id in tasks:
        world.wire.say(id=id, result={})
        await done(task)
    assert ears[0].questions.empty()
    assert ears[1].questions.empty()


async def test_a_question_with_nobody_to_ask_is_refused(world: World) -> None:
    world.session.listener = None
    world.wire.say(id=0, method="sampling/createMessage", params={})
    answer = await world.wire.next()
    assert (answer["id"], answer["error"]["code"]) == (0, -32601)


async def test_a_question_that_cannot_be_put_is_answered_all_the_same(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.listener.answer.set_exception(LookupError("secret detail"))
    world.wire.say(id=0, method="sampling/createMessage", params={})
    answer = await world.wire.next()
    assert answer["error"]["code"] == -32603
    assert "secret" not in answer["error"]["message"]


async def test_a_ping_is_answered_here_and_is_no_sign_of_life_of_a_call(world: World) -> None:
    ear = Ear()
    task, _ = await world.begin(ear, timeout_seconds=10)
    world.pass_time(9)
    world.wire.say(id="p", method="ping")
    assert await world.wire.next() == {"jsonrpc": "2.0", "id": "p", "result": {}}
    assert ear.questions.empty()
    world.pass_time(2)
    with pytest.raises(UpstreamTimeout):
        await done(task)
    await world.wire.next()


async def test_a_question_still_open_when_its_call_ends_is_cancelled_and_refused(world: World) -> None:
    ear = Ear()
    task, id = await world.begin(ear)
    world.wire.say(id="q", method="elicitation/create", params={})
    await ear.next_question()
    world.wire.say(id=id, result={})
    await done(task)
    refusal = await world.wire.next()
    assert (refusal["id"], refusal["error"]["code"]) == ("q", -32603)
    assert ear.cut_short == 1


async def test_c5_a_question_that_the_server_takes_back_is_cancelled_without_an_answer(world: World) -> None:
    ear = Ear()
    task, id = await world.begin(ear)
    world.wire.say(id=5, method="elicitation/create", params={})
    await ear.next_question()
    world.wire.say(method="notifications/cancelled", params={"requestId": 5})
    world.wire.say(method="notifications/cancelled", params={"requestId": 6})
    world.wire.say(method="notifications/cancelled", params={"requestId": [6]})
    world.wire.say(id=id, result={})
    await done(task)
    assert ear.cut_short == 1
    assert world.wire.posted.empty()
    assert world.listener.heard.empty()


async def test_a_flood_of_questions_is_refused(world: World) -> None:
    for number in range(MAX_QUESTIONS + 1):
        world.wire.say(id=number, method="roots/list")
    refused = await world.wire.next()
    assert refused["id"] == MAX_QUESTIONS
    assert "too many questions" in refused["error"]["message"]


async def test_silence_ends_a_call_and_keeps_the_session(world: World) -> None:
    task, id = await world.begin(timeout_seconds=10, headers=b"X: 1\r\n")
    world.pass_time(9)
    assert not task.done()
    world.pass_time(2)
    with pytest.raises(UpstreamTimeout, match=r"crm.*10 seconds"):
        await done(task)
    told, headers = await world.wire.next_with_headers()
    assert told["method"] == "notifications/cancelled"
    assert told["params"]["requestId"] == id
    assert headers == b"X: 1\r\n"
    assert not world.session.closed


async def test_progress_renews_the_time(world: World) -> None:
    ear = Ear()
    task, id = await world.begin(ear, timeout_seconds=10, token=1)
    for _ in range(3):
        world.pass_time(9)
        world.wire.say(method="notifications/progress", params={"progressToken": id, "progress": 1})
    world.pass_time(9)
    world.wire.say(id=id, result={})
    assert await done(task) == b"{}"


async def test_time_stands_still_while_a_question_is_open(world: World) -> None:
    ear = Ear()
    task, id = await world.begin(ear, timeout_seconds=10)
    world.wire.say(id="q", method="elicitation/create", params={})
    await ear.next_question()
    world.pass_time(1000)
    ear.answer.set_result(b"{}")
    await world.wire.next()
    world.pass_time(9)
    assert not task.done()
    world.pass_time(2)
    with pytest.raises(UpstreamTimeout):
        await done(task)
    assert id == (await world.wire.next())["params"]["requestId"]


async def test_u7_cancelling_one_call_tells_the_server_and_leaves_the_others_alone(world: World) -> None:
    doomed, doomed_id = await world.begin(headers=b"A: 1\r\n")
    other, other_id = await world.begin(headers=b"B: 1\r\n")
    doomed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await done(doomed)
    told, headers = await world.wire.next_with_headers()
    assert told["method"] == "notifications/cancelled"
    assert told["params"]["requestId"] == doomed_id
    assert headers == b"A: 1\r\n"
    world.wire.say(id=doomed_id, result={"late": True})
    world.wire.say(id=other_id, result={})
    assert await done(other) == b"{}"


async def test_i9_each_message_has_the_headers_of_its_own_call(world: World) -> None:
    tasks = []
    for headers in (b"Authorization: one\r\n", b"Authorization: two\r\n"):
        tasks.append(world.ask(headers=headers))
        message, sent = await world.wire.next_with_headers()
        assert sent == headers
        world.wire.say(id=message["id"], result={})
    await asyncio.gather(*tasks)
    world.session.listen(world.session.own_headers)
    await world.session.notify("notifications/roots/list_changed")
    await world.wire.next()
    world.wire.say(id="p", method="ping")
    assert (await world.wire.next_with_headers())[1] == b"Authorization: two\r\n"


async def test_u4_the_end_of_the_wire_fails_every_call_at_once_and_says_why(world: World) -> None:
    calls = [await world.begin() for _ in range(3)]
    world.wire.say(id="q", method="roots/list")
    await world.listener.next_question()
    world.wire.end("its process ended with exit code 3")
    for task, _ in calls:
        with pytest.raises(ConnectionLost, match=r"crm.*exit code 3"):
            await done(task)
    assert world.session.closed
    world.wire.say(method="notifications/tools/list_changed")
    assert world.listener.heard.empty()
    assert world.listener.cut_short == 1
    assert world.wire.posted.empty()


async def test_a_call_after_the_end_says_that_it_did_not_run(world: World) -> None:
    world.wire.end(ConnectionLost("crm", "reset by peer"))
    await world.session.aclose()
    with pytest.raises(SessionLost, match="reset by peer") as caught:
        await world.session.request(call(), Ear())
    assert caught.value.refused_before_dispatch
    assert str(caught.value).count("upstream 'crm'") == 1
    with pytest.raises(SessionLost):
        await world.session.notify("notifications/roots/list_changed")


async def test_closing_fails_what_still_waits(world: World) -> None:
    task, _ = await world.begin()
    await world.session.aclose()
    await world.session.aclose()
    with pytest.raises(ConnectionLost, match="was closed"):
        await done(task)


async def test_p3_a_caller_that_gives_up_closing_twice_does_not_break_it_off(world: World) -> None:
    world.wire.closes.clear()
    closers = [asyncio.create_task(world.session.aclose()) for _ in range(3)]
    async with asyncio.timeout(5):
        await world.wire.closing.wait()
    for closer in closers:
        closer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closer
    assert world.wire.closed == 0
    world.wire.closes.set()
    await world.session.aclose()
    assert world.wire.closed == 1


async def test_a_message_that_cannot_be_sent_fails_its_call(world: World) -> None:
    world.wire.post_error = AuthRefused("crm", "it answered HTTP 401", status=401)
    with pytest.raises(AuthRefused):
        await world.session.request(call(), Ear())
    with pytest.raises(AuthRefused):
        await world.session.notify("notifications/roots/list_changed")


async def test_a_post_that_timed_out_leaves_its_call_to_its_own_deadline(world: World) -> None:
    world.wire.post_error = UpstreamTimeout("crm", "no answer to POST")
    task, id = await world.begin()
    world.wire.say(id=id, result={})
    assert await done(task) == b"{}"


async def test_p3_opening_that_is_given_up_at_any_await_leaves_nothing() -> None:
    for turns in range(100):
        wire, sweep = FakeWire(), Sweep(FakeClock(), tick_seconds=3600)
        opening = asyncio.create_task(open_session(TARGET, wire, Hello(), b"", sweep))
        for turn in range(turns % 10):
            await asyncio.sleep(0)
            if turn == 4:
                wire.say(id=1, result=WELCOME)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.timeout(5):
                await (await opening).aclose()
        assert wire.closed == (1 if turns % 10 else 0)
        assert len(sweep) == 0
        assert not [name for name in runtime.running_tasks() if "crm" in name]
        sweep.close()


async def test_a_wire_that_does_not_start_is_closed_and_its_error_kept() -> None:
    wire = FakeWire()
    wire.start_error = ConnectFailed("crm", "connection refused")
    with pytest.raises(ConnectFailed, match="connection refused"):
        await open_session(TARGET, wire, Hello(), b"", Sweep())
    assert wire.closed == 1


async def test_a_wire_that_never_starts_runs_out_of_time() -> None:
    wire = FakeWire()
    wire.starts.clear()
    with pytest.raises(UpstreamTimeout, match=r"no session within 0 s: crm\.test has not answered"):
        await open_session(Target(name="crm", url="http://crm.test/sse", open_timeout_seconds=0), wire, Hello(), b"", Sweep())
    assert wire.closed == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"error": {"code": -32601, "message": "no such method"}}, Incompatible),
        ({"error": {"code": -32022, "message": "unsupported"}}, Incompatible),
        ({"error": {"code": -32603, "message": "broken"}}, BadAnswer),
        ({"result": {"protocolVersion": "2026-07-28", "capabilities": {}}}, Incompatible),
        ({"result": {"nonsense": True}}, BadAnswer),
    ],
)
async def test_a_handshake_that_is_refused_says_how(answer: dict[str, Any], expected: type[UpstreamError]) -> None:
    wire, sweep = FakeWire(), Sweep(tick_seconds=3600)
    opening = asyncio.create_task(open_session(TARGET, wire, Hello(), b"", sweep))
    wire_id = (await wire.next())["id"]
    wire.say(id=wire_id, **answer)
    with pytest.raises(expected):
        await opening
    assert wire.closed == 1
    sweep.close()


async def test_a_wire_that_ends_during_the_handshake_is_a_failed_connection() -> None:
    wire, sweep = FakeWire(), Sweep(tick_seconds=3600)
    opening = asyncio.create_task(open_session(TARGET, wire, Hello(), b"", sweep))
    await wire.next()
    wire.end("its process ended with exit code 1: no licence")
    with pytest.raises(ConnectFailed, match="exit code 1: no licence"):
        await opening
    assert wire.closed == 1
    sweep.close()


async def test_a_session_can_be_read_in_a_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("test").info("%r", world.session)
    assert repr(world.session) == "<OwnedSession crm 0 waiting>"
