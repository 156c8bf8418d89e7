"""Downstream sessions: whose they are, how long they live, and what their clients hear."""

from __future__ import annotations

import asyncio
import json

import pytest

from mcpgateway.auth.principals import Principal
from mcpgateway.downstream.changes import DEBOUNCE_SECONDS
from mcpgateway.downstream.event_stream import EventStream
from mcpgateway.downstream.sessions import QUESTION_SECONDS, REAP_SECONDS, UNHEARD, ClientSession, Sessions
from mcpgateway.errors import Busy, RpcError, UnknownSession
from mcpgateway.protocol import jsonrpc
from mcpgateway.runtime import Sweep
from mcpgateway.services.views import View
from tests.fakes.clock import FakeClock
from tests.unit.downstream.asgi import Exchange

ALICE, BOB = Principal("static", "alice"), Principal("static", "bob")
VIEW, OTHER_VIEW = View({}, single=False), View({}, single=False)
IDLE = 100.0


class Rig:
    """A registry of sessions under a clock that the test moves, and those of them that have ended."""

    def __init__(self, clock: FakeClock, limit: int = 10) -> None:
        self.clock = clock
        self.sweep = Sweep(clock)
        self.ended: list[ClientSession] = []
        self.sessions = Sessions(limit, IDLE, self.sweep, self.ended.append)

    def open(self, principal: Principal = ALICE, capabilities: bytes = b"{}", view: View = VIEW) -> ClientSession:
        session = ClientSession(principal, view, "2025-11-25", capabilities, b"{}", self.sweep)
        self.sessions.add(session)
        return session

    def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.sweep.expire_due()

    def listening(self, session: ClientSession) -> Exchange:
        exchange = Exchange()
        stream = EventStream(exchange.asgi(), self.sweep)
        stream.start()
        session.attach(stream)
        return exchange


@pytest.fixture
async def rig(clock: FakeClock) -> Rig:
    return Rig(clock)


async def test_i3_a_session_is_found_only_by_its_principal_at_its_endpoint(rig: Rig) -> None:
    session = rig.open()
    assert rig.sessions.get(session.id, ALICE.id, VIEW) is session
    for id, user, view in ((session.id, BOB.id, VIEW), (session.id, ALICE.id, OTHER_VIEW), ("x", ALICE.id, VIEW)):
        with pytest.raises(UnknownSession):
            rig.sessions.get(id, user, view)


async def test_ids_are_unguessable_and_never_repeat(rig: Rig) -> None:
    ids = {rig.open(Principal("static", str(number))).id for number in range(10)}
    assert len(ids) == 10 and {len(id) for id in ids} == {32}


async def test_c2_a_session_that_is_idle_for_long_ends(rig: Rig) -> None:
    idle, used = rig.open(), rig.open()
    rig.passes(IDLE - 1)
    rig.sessions.get(used.id, ALICE.id, VIEW)
    rig.passes(REAP_SECONDS + 1)
    assert rig.ended == [idle] and rig.sessions.all() == [used]
    rig.passes(IDLE + REAP_SECONDS)
    assert len(rig.sessions) == 0 and len(rig.sweep) == 0


async def test_c2_work_in_flight_and_a_client_that_listens_keep_a_session(rig: Rig) -> None:
    working, listening = rig.open(), rig.open()
    task = working.in_flight[1] = asyncio.create_task(asyncio.Event().wait())
    rig.listening(listening)
    rig.passes(IDLE * 10)
    assert rig.ended == []
    del working.in_flight[1]
    assert listening.stream is not None
    await listening.stream.cut()
    listening.detach(listening.stream)
    for session in (working, listening):
        rig.sessions.touch(session)
    rig.passes(IDLE - 1)
    assert rig.ended == []
    rig.passes(REAP_SECONDS + 1)
    assert set(rig.ended) == {working, listening}
    task.cancel()


async def test_c2_room_is_made_by_the_least_recently_used_session_of_who_has_most(clock: FakeClock) -> None:
    rig = Rig(clock, limit=4)
    bobs = rig.open(BOB)
    first, second, third = rig.open(), rig.open(), rig.open()
    rig.passes(1)
    rig.sessions.get(first.id, ALICE.id, VIEW)
    rig.open()
    assert rig.ended == [second]
    rig.open(BOB)
    assert rig.ended == [second, third] and bobs in rig.sessions.all()


async def test_c2_work_in_flight_is_never_evicted(clock: FakeClock) -> None:
    rig = Rig(clock, limit=2)
    busy, bobs = rig.open(), rig.open(BOB)
    tasks = [asyncio.create_task(asyncio.Event().wait()) for _ in range(2)]
    busy.in_flight[1] = tasks[0]
    third = rig.open()
    assert rig.ended == [bobs]
    third.in_flight[1] = tasks[1]
    with pytest.raises(Busy):
        rig.open(BOB)
    assert len(rig.sessions) == 2
    for task in tasks:
        task.cancel()


async def test_ten_thousand_sessions_leave_nothing(clock: FakeClock) -> None:
    rig = Rig(clock, limit=1000)
    for number in range(2000):
        rig.open(Principal("static", str(number % 50)))
    assert len(rig.sessions) == 1000
    rig.passes(IDLE + REAP_SECONDS)
    assert "0 of 0 principals" in repr(rig.sessions) and len(rig.sweep) == 0


async def test_what_was_said_before_the_client_listened_is_delivered_when_it_does(rig: Rig) -> None:
    session = rig.open()
    for number in range(UNHEARD + 5):
        session.push("notifications/message", b'{"data":%d}' % number)
    exchange = rig.listening(session)
    session.push("notifications/message", b'{"data":"last"}')
    heard = await exchange.until_messages(UNHEARD + 1)
    assert [message["params"]["data"] for message in heard] == [*range(5, UNHEARD + 5), "last"]
    await end(session)


async def test_c6_changes_said_quickly_are_announced_once(rig: Rig) -> None:
    session = rig.open()
    exchange = rig.listening(session)
    for _ in range(50):
        session.lists_changed("tools")
        session.lists_changed("prompts")
    rig.passes(DEBOUNCE_SECONDS)
    session.lists_changed("tools")
    rig.passes(DEBOUNCE_SECONDS)
    kinds = [message["method"].split("/")[1] for message in await exchange.until_messages(3)]
    assert kinds == ["prompts", "tools", "tools"]
    await end(session)


async def test_c6_a_change_is_not_lost_among_what_nobody_heard(rig: Rig) -> None:
    session = rig.open()
    session.lists_changed("tools")
    rig.passes(DEBOUNCE_SECONDS)
    for number in range(UNHEARD * 2):
        session.push("notifications/message", b'{"data":%d}' % number)
    exchange = rig.listening(session)
    messages = await exchange.until_messages(UNHEARD + 1)
    assert [message["method"] for message in messages].count("notifications/tools/list_changed") == 1
    await end(session)


async def test_a_newer_stream_takes_the_place_of_an_older_one(rig: Rig) -> None:
    session = rig.open()
    older = EventStream(Exchange().asgi(), rig.sweep)
    exchange = Exchange()
    newer = EventStream(exchange.asgi(), rig.sweep)
    newer.start()
    assert session.attach(older) is None and session.attach(newer) is older
    assert session.detach(older) is False and session.listening
    session.push("notifications/message", b"{}")
    assert len(await exchange.until_messages(1)) == 1
    assert session.detach(newer) is True and not session.listening
    await newer.cut()


async def test_a_question_is_answered_by_its_id_and_by_nothing_else(rig: Rig) -> None:
    session = rig.open(capabilities=b'{"roots":{}}')
    exchange = rig.listening(session)
    asking = asyncio.create_task(session.ask("roots/list", b"{}"))
    (question,) = await exchange.until_messages(1)
    session.answered(jsonrpc.decode(b'{"jsonrpc":"2.0","id":"gateway-99","result":{"not":"this"}}'))
    session.answered(jsonrpc.decode(b'{"jsonrpc":"2.0","id":1,"result":{"nor":"this"}}'))
    answer = jsonrpc.decode(json.dumps({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}}).encode())
    session.answered(answer)
    session.answered(answer)
    assert json.loads(await asking) == {"roots": []}
    await end(session)


async def test_a_question_to_a_client_that_stays_silent_is_refused_in_the_end(rig: Rig) -> None:
    session = rig.open(capabilities=b'{"roots":{}}')
    exchange = rig.listening(session)
    asking = asyncio.create_task(session.ask("roots/list", b"{}"))
    await exchange.until_messages(1)
    rig.passes(QUESTION_SECONDS + 1)
    with pytest.raises(RpcError) as refused:
        await asking
    assert "did not answer within 600 s" in str(refused.value.error)
    await end(session)


async def test_a_refused_question_raises_what_the_client_said(rig: Rig) -> None:
    session = rig.open(capabilities=b'{"elicitation":{}}')
    exchange = rig.listening(session)
    asking = asyncio.create_task(session.ask("elicitation/create", b"{}"))
    (question,) = await exchange.until_messages(1)
    refusal = {"jsonrpc": "2.0", "id": question["id"], "error": {"code": -1, "message": "no"}}
    session.answered(jsonrpc.decode(json.dumps(refusal).encode()))
    with pytest.raises(RpcError) as refused:
        await asking
    assert refused.value.code == -1
    await end(session)


@pytest.mark.parametrize("method", ["sampling/createMessage", "elicitation/create", "roots/list"])
async def test_a_client_is_not_asked_what_it_did_not_declare(rig: Rig, method: str) -> None:
    session = rig.open()
    rig.listening(session)
    with pytest.raises(RpcError) as refused:
        await session.ask(method, b"{}")
    assert refused.value.code == -32601
    await end(session)


async def test_a_question_that_is_withdrawn_is_cancelled_at_the_client(rig: Rig) -> None:
    session = rig.open()
    exchange = rig.listening(session)
    asking = asyncio.create_task(session.ask("ping", b"{}"))
    (question,) = await exchange.until_messages(1)
    asking.cancel()
    cancelled = (await exchange.until_messages(2))[1]
    assert cancelled["method"] == "notifications/cancelled" and cancelled["params"]["requestId"] == question["id"]
    await end(session)


async def test_the_end_of_a_session_fails_its_questions_and_cancels_its_calls(rig: Rig) -> None:
    session = rig.open()
    exchange = rig.listening(session)
    asking = asyncio.create_task(session.ask("ping", b"{}"))
    calling = session.in_flight[1] = asyncio.create_task(asyncio.Event().wait())
    await exchange.until_messages(1)
    rig.sessions.end(session)
    rig.sessions.end(session)
    assert rig.ended == [session]
    async with asyncio.timeout(5):
        with pytest.raises(RpcError):
            await asking
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert session.stream is not None
        await session.stream.ended()
    assert exchange.complete


async def test_cancelling_what_is_over_or_never_was_does_nothing(rig: Rig) -> None:
    session = rig.open()
    session.cancel(1)
    session.cancel("x")
    assert session.cancelled == set()


async def end(session: ClientSession) -> None:
    if session.stream is not None:
        await session.stream.cut()


async def test_what_runs_keeps_the_rights_of_the_token_that_it_came_with(rig: Rig) -> None:
    session = rig.open()
    session.in_flight[1] = asyncio.create_task(asyncio.Event().wait())
    session.act_as(Principal("static", "alice"))
    with pytest.raises(Busy):
        session.act_as(Principal("static", "alice", groups=("admin",)))
    assert session.principal.groups == ()
    session.in_flight.pop(1).cancel()
    session.act_as(Principal("static", "alice", groups=("admin",)))
    assert session.principal.groups == ("admin",)
