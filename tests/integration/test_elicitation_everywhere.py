"""What servers ask reaches the caller who made the call and nobody else, whichever generations meet; what is abandoned ends.

Both servers check every message that they are sent against the schema of its revision, as the clients check theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

import httpx
import pytest

from mcpgateway import runtime
from mcpgateway.downstream.event_store import RETURN_SECONDS
from mcpgateway.downstream.parked import GRACE_SECONDS, PARKED_SECONDS, Interaction
from mcpgateway.downstream.reply import Reply
from tests.clients.modern_wire import EVERYTHING, ModernWire
from tests.clients.wire import Message, Wire
from tests.fakes.callers import bearer, letting_in
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.moved_time import moved_time
from tests.fakes.process import Server
from tests.fakes.programs import python_1x

NAMES = [f"user-{number}" for number in range(10)]
CALLS = 50
NONCE = re.compile(r"user-\d+/\d+")
REVISIONS = {"legacy": "2025-11-25", "modern": "2026-07-28"}

OWN_TASKS = {"listen to up", "watch up"}

Answering = Callable[[Message], Awaitable[Message]]
"""What a question is answered with: question → result."""


class Hearing(Wire):
    """Remembers every message that comes, on whichever stream."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, **how: Any) -> None:
        super().__init__(url, headers, **how)
        self.heard: list[Message] = []

    def nonces(self) -> set[str]:
        """All that were ever mentioned to this client."""
        return set(NONCE.findall(json.dumps(self.heard)))

    def _check(self, message: Message, revision: str) -> None:
        self.heard.append(message)
        super()._check(message, revision)


class LegacyCaller(Hearing):
    """Has a session, and is asked on the stream of its call."""

    async def ask(self, tool: str, nonce: str, answering: Answering) -> Message:
        """The response to a call, during which `answering` is asked what the server asks on the call's own stream."""
        response: Message = {}
        async with self._calling(tool, nonce) as messages:
            async for message in messages:
                if "method" in message:
                    answer = {"jsonrpc": "2.0", "id": message["id"], "result": await answering(message)}
                    assert (await self.post(answer)).status == 202
                else:
                    response = message
        return response

    async def abandon(self, tool: str, nonce: str) -> None:
        """Call, and go away when asked."""
        async with self._calling(tool, nonce) as messages:
            assert NONCE.findall(json.dumps(await anext(messages))) == [nonce]

    async def fail_to_answer_for(self, other: Hearing, nonce: str) -> None:
        """Answer what the other one was asked last, in one's own session and in theirs."""
        forged = {"jsonrpc": "2.0", "id": other.heard[-1]["id"], "result": answer_of("elicit", "forged")}
        assert (await self.post(forged)).status == 202
        refused = 202 if other is self else 404
        assert (await self.post(forged, {"mcp-session-id": other.session})).status == refused

    def general(self) -> contextlib.AbstractAsyncContextManager[AsyncIterator[Message]]:
        """What is said outside calls."""
        return self.listen()

    def _calling(self, tool: str, nonce: str) -> contextlib.AbstractAsyncContextManager[AsyncIterator[Message]]:
        return self.exchange(self.request_message("tools/call", params_of(tool, nonce)))


class ModernCaller(Hearing, ModernWire):
    """Has no session, and is asked in the result of its call. Its methods are those of LegacyCaller."""

    async def ask(self, tool: str, nonce: str, answering: Answering) -> Message:
        params = params_of(tool, nonce)
        response = await self.request("tools/call", params)
        while questions := response.get("result", {}).get("inputRequests"):
            answers = {key: await answering(question) for key, question in questions.items()}
            response = await self.again("tools/call", params, response, answers)
        return response

    async def abandon(self, tool: str, nonce: str) -> None:
        asked = await self.request("tools/call", params_of(tool, nonce))
        assert set(NONCE.findall(json.dumps(asked["result"]["inputRequests"]))) == {nonce}

    async def fail_to_answer_for(self, other: Hearing, nonce: str) -> None:
        asked = other.heard[-1]
        answers = {key: answer_of("elicit", "forged") for key in asked["result"]["inputRequests"]}
        response = await self.again("tools/call", params_of("elicit", nonce), asked, answers)
        assert response["error"]["code"] == -32602

    def general(self) -> contextlib.AbstractAsyncContextManager[AsyncIterator[Message]]:
        return self.listening(toolsListChanged=True)


Caller = LegacyCaller | ModernCaller


def params_of(tool: str, nonce: str) -> Message:
    return {"name": tool, "arguments": {"nonce": nonce}}


def said_to(nonce: str) -> str:
    """What only the one who knows the nonce answers."""
    return f"file:///answer/to/{nonce}"


def answer_of(tool: str, nonce: str) -> Message:
    """The client's result, in the form in which this tool's question wants it."""
    match tool:
        case "elicit":
            return {"action": "accept", "content": {"name": said_to(nonce)}}
        case "sample":
            return {"role": "assistant", "model": "m", "content": {"type": "text", "text": said_to(nonce)}}
    return {"roots": [{"uri": said_to(nonce)}]}


class Crowd:
    """People who think about their answers until each was asked; then the last one answers first."""

    def __init__(self, size: int) -> None:
        self.all_asked = asyncio.Event()
        self._size = size
        self._thinking: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<Crowd {len(self._thinking)} of {self._size} asked>"

    def person(self, tool: str, nonce: str) -> Answering:
        """Somebody who expects this call's question and no other."""

        async def answering(question: Message) -> Message:
            # The modern server's own names for its questions are checked by that server; roots have nothing to say.
            assert NONCE.findall(json.dumps(question.get("params"))) == ([nonce] if tool != "roots" else [])
            await self._think()
            return answer_of(tool, nonce)

        return answering

    async def _think(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._thinking.append(turn)
        if len(self._thinking) == self._size:
            self.all_asked.set()
        await turn

    def answer(self) -> None:
        for turn in reversed(self._thinking):
            turn.set_result(None)


class Meeting(NamedTuple):
    """A client of one generation and a server of one."""

    client: str
    server: Server
    spoken: str
    """The revision that the server speaks."""

    @property
    def parks(self) -> bool:
        """Whether a call waits in the gateway while its client is away."""
        return self.client == "modern" and self.spoken == REVISIONS["legacy"]


MEETINGS = [(client, server) for client in ("legacy", "modern") for server in ("legacy", "modern")]


@pytest.fixture(scope="module")
def legacy_server() -> Iterator[Server]:
    with Server([python_1x(), "-m", "tests.servers.curious_1x"]) as server:
        yield server


@pytest.fixture(scope="module")
def modern_server() -> Iterator[Server]:
    with Server([sys.executable, "-m", "tests.servers.curious_2x"]) as server:
        yield server


@pytest.fixture(params=MEETINGS, ids="-to-".join)
def meeting(request: pytest.FixtureRequest) -> Iterator[Meeting]:
    """Each of the four; afterwards, all that its server was sent was valid, and in the server's own revision."""
    client, generation = request.param
    server: Server = request.getfixturevalue(f"{generation}_server")
    yield Meeting(client, server, REVISIONS[generation])
    heard = httpx.get(server.url.replace("/mcp", "/heard"), trust_env=False).json()
    assert heard == {"faults": [], "revisions": [REVISIONS[generation]]}


@contextlib.asynccontextmanager
async def gateway_of(meeting: Meeting) -> AsyncIterator[RunningGateway]:
    """Sessions stay for as long as their callers: no test here is about their age."""
    settings = letting_in(*NAMES) | {"session_pool": {"session_ttl_seconds": 3600}}
    document = {"mcpServers": {"up": {"url": meeting.server.url}}, "gateway": settings}
    async with serving(document) as gateway, asyncio.timeout(20):
        yield gateway


@contextlib.asynccontextmanager
async def caller_of(
    gateway: RunningGateway, meeting: Meeting, name: str, revision: str = REVISIONS["legacy"], **more: str
) -> AsyncIterator[Caller]:
    headers = bearer(name) | more
    if meeting.client == "modern":
        async with ModernCaller(gateway.server("up"), headers, capabilities=EVERYTHING) as modern:
            yield modern
    else:
        async with LegacyCaller(gateway.server("up"), headers) as legacy:
            await legacy.initialize({**EVERYTHING, "sampling": {}}, revision)
            yield legacy


async def count(caller: Caller) -> tuple[int, str | None]:
    """How often the server was asked to count, by this caller's session if it keeps any; and that session."""
    counted = told(await caller.call("count"))
    return counted["count"], counted["session"]


def told(response: Message) -> Message:
    """What the server says of a call."""
    assert "result" in response, response
    said: Message = json.loads(response["result"]["content"][0]["text"])
    return said


def parked(gateway: RunningGateway) -> int:
    return len(gateway.gateway._modern._rounds.parked)


async def nothing_is_left(gateway: RunningGateway) -> None:
    """No call, no question, no lease and no task, but for those with which the gateway itself looks after the server."""
    with contextlib.suppress(TimeoutError):
        await gateway.until(lambda: not left(gateway))
    assert left(gateway) == []


def left(gateway: RunningGateway) -> list[object]:
    inner = gateway.gateway
    figures = inner.pool.get_metrics()
    # The session of a modern caller that answers questions is heard for as long as it is kept.
    tasks = [task for task in runtime.running_tasks() if not task.startswith("listen to ")]
    for own in OWN_TASKS & {*tasks}:
        tasks.remove(own)
    return [
        *tasks,
        *(f"{figures[name]} {name}" for name in ("leased", "waiting", "opening", "closing") if figures[name]),
        *(session for session in inner.sessions.all() if session._questions or session.in_flight),
        *(each for each in inner.sweep._watched if isinstance(each, Interaction | Reply)),
        *(["calls in flight"] if inner._busy() else []),
    ]


async def hear_all(caller: Caller, ready: asyncio.Barrier) -> None:
    """Hear what is said outside calls, which is nothing of any call, until the gateway ends it."""
    async with caller.general() as messages:
        await ready.wait()
        async for message in messages:
            assert NONCE.search(json.dumps(message)) is None


async def test_c5_fifty_questions_at_once_reach_those_who_made_the_calls_and_nobody_else(meeting: Meeting) -> None:
    nonces = [f"{name}/{number}" for number in range(CALLS // len(NAMES)) for name in NAMES]
    crowd, ready = Crowd(CALLS), asyncio.Barrier(len(NAMES) + 1)
    async with gateway_of(meeting) as gateway, contextlib.AsyncExitStack() as stack:
        callers = {name: await stack.enter_async_context(caller_of(gateway, meeting, name)) for name in NAMES}
        async with asyncio.TaskGroup() as group:
            for caller in callers.values():
                group.create_task(hear_all(caller, ready))
            await ready.wait()
            calls = [
                group.create_task(callers[nonce.partition("/")[0]].ask("elicit", nonce, crowd.person("elicit", nonce)))
                for nonce in nonces
            ]
            await crowd.all_asked.wait()
            assert parked(gateway) == (CALLS if meeting.parks else 0)
            crowd.answer()
            answers = [told(await call) for call in calls]
            gateway.gateway.drain()
        assert [(each["asked"], each["told"]) for each in answers] == [(nonce, said_to(nonce)) for nonce in nonces]
        used = {(nonce.partition("/")[0], each["session"]) for nonce, each in zip(nonces, answers, strict=True)}
        assert len(used) == len(NAMES) and len({session for _, session in used} - {None}) in (0, len(NAMES))
        for name, caller in callers.items():
            assert caller.nonces() == {nonce for nonce in nonces if nonce.startswith(f"{name}/")}
        await nothing_is_left(gateway)


async def test_c5_models_and_roots_are_asked_for_of_the_caller_whose_call_it_is(meeting: Meeting) -> None:
    asked = [(name, tool) for name in NAMES[:2] for tool in ("sample", "roots")]
    crowd = Crowd(len(asked))
    async with gateway_of(meeting) as gateway, contextlib.AsyncExitStack() as stack:
        callers = {name: await stack.enter_async_context(caller_of(gateway, meeting, name)) for name in NAMES[:2]}
        async with asyncio.TaskGroup() as group:
            calls = [
                group.create_task(callers[name].ask(tool, f"{name}/1", crowd.person(tool, f"{name}/1"))) for name, tool in asked
            ]
            await crowd.all_asked.wait()
            crowd.answer()
        assert [told(call.result())["told"] for call in calls] == [said_to(f"{name}/1") for name, _ in asked]
        assert [caller.nonces() for caller in callers.values()] == [{f"{name}/1"} for name in callers]
        await nothing_is_left(gateway)


async def test_c5_nobody_else_can_answer_a_question(meeting: Meeting) -> None:
    crowd, nonce = Crowd(1), f"{NAMES[0]}/1"
    async with gateway_of(meeting) as gateway, caller_of(gateway, meeting, NAMES[0]) as alice:
        async with caller_of(gateway, meeting, NAMES[1]) as eve, asyncio.TaskGroup() as group:
            call = group.create_task(alice.ask("elicit", nonce, crowd.person("elicit", nonce)))
            await crowd.all_asked.wait()
            await eve.fail_to_answer_for(alice, nonce)
            crowd.answer()
        assert told(call.result())["told"] == said_to(nonce)
        assert eve.nonces() == set()


async def test_what_a_caller_abandons_is_cleaned_up_by_its_expiry_and_the_session_goes_on(meeting: Meeting) -> None:
    nonce = f"{NAMES[0]}/1"
    # A connection that is kept would be closed, too, when so much time has passed: perhaps while something is sent on it.
    async with gateway_of(meeting) as gateway, caller_of(gateway, meeting, NAMES[0], Connection="close") as alice:
        counted, session = await count(alice)
        await alice.abandon("elicit", nonce)
        with moved_time(gateway) as time:
            if meeting.client == "legacy":
                await gateway.until(lambda: waits_for_a_return(gateway))
                time.passes(RETURN_SECONDS)
            else:
                assert parked(gateway) == meeting.parks
                time.passes(PARKED_SECONDS)
                await gateway.until(lambda: not parked(gateway))
                time.passes(GRACE_SECONDS)
            await nothing_is_left(gateway)
            await alice.fail_to_answer_for(alice, nonce)
        assert await count(alice) == (counted + 1, session)


def waits_for_a_return(gateway: RunningGateway) -> bool:
    """Whether a client has lost a stream, and may come back for it."""
    return any(stream.deadline for session in gateway.gateway.sessions.all() for stream in session.kept.values())


@pytest.mark.parametrize("meeting", MEETINGS[:2], ids="-to-".join, indirect=True)
async def test_what_a_caller_abandons_that_cannot_come_back_is_cleaned_up_at_once(meeting: Meeting) -> None:
    async with gateway_of(meeting) as gateway, caller_of(gateway, meeting, NAMES[0], "2025-06-18") as alice:
        counted, session = await count(alice)
        await alice.abandon("elicit", f"{NAMES[0]}/1")
        await nothing_is_left(gateway)
        assert await count(alice) == (counted + 1, session)


@pytest.mark.parametrize("meeting", MEETINGS[:2], ids="-to-".join, indirect=True)
async def test_a_question_is_withdrawn_before_the_response_of_a_call_that_is_taken_back_or_whose_session_ends(
    meeting: Meeting,
) -> None:
    async with gateway_of(meeting) as gateway, caller_of(gateway, meeting, NAMES[0]) as alice:
        for take_back in (lambda id: alice.notify("notifications/cancelled", {"requestId": id}), lambda id: alice.delete()):
            request = alice.request_message("tools/call", params_of("elicit", f"{NAMES[0]}/1"))
            async with alice.exchange(request) as messages:
                question = await anext(messages)
                await take_back(request["id"])
                rest = [message async for message in messages]
            # The response is the last message of a stream: clients read no further.
            assert "error" in rest[-1] and rest[0]["params"]["requestId"] == question["id"], rest
            await nothing_is_left(gateway)
