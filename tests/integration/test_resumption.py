"""Clients of 2025-11-25 that lose a stream, and come back for what it still owed them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpgateway import runtime
from mcpgateway.auth.tokens import new_token
from mcpgateway.downstream.event_store import RETRY_MILLISECONDS
from tests.clients.events import Stream, stream
from tests.clients.messages import text_of
from tests.clients.wire import Message, Wire
from tests.fakes.gateway import RunningGateway, serving
from tests.servers.http11 import Request, chunk, head
from tests.servers.raw_stub import event
from tests.servers.talking_stub import TalkingStub, talk

ELICITATION: Message = {"elicitation": {}}


@pytest.fixture
async def stub() -> AsyncIterator[TalkingStub]:
    async with TalkingStub() as server:
        yield server


class Client:
    """A client with a session, that opens each stream on a connection of its own."""

    def __init__(self, gateway: RunningGateway, stub: TalkingStub, headers: dict[str, str] | None = None) -> None:
        self.gateway = gateway
        self.stub = stub
        self.url = gateway.server("up")
        self.wire = Wire(self.url, headers)
        self.headers: dict[str, str | None] = {}

    async def initialize(self, revision: str = "2025-11-25", capabilities: Message | None = None) -> None:
        await self.wire.initialize(capabilities, revision)
        named = {"mcp-session-id": self.wire.session, "mcp-protocol-version": self.wire.revision}
        self.headers = {**self.wire._headers, **named}

    @contextlib.asynccontextmanager
    async def talking(self, text: str = "a", id: object = 1) -> AsyncIterator[Stream]:
        """A call that has begun and been said something to, and its stream."""
        async with stream(self.url, talk(text, id), self.headers) as answer:
            yield answer

    async def began(self, text: str = "a") -> None:
        await self.gateway.until(lambda: text in self.stub.talks)

    def resumed(self, last: str | None) -> contextlib.AbstractAsyncContextManager[Stream]:
        return stream(self.url, None, self.headers, last_event_id=str(last))


@contextlib.asynccontextmanager
async def client_of(
    stub: TalkingStub, revision: str = "2025-11-25", capabilities: Message | None = None
) -> AsyncIterator[Client]:
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, asyncio.timeout(20):
        client = Client(gateway, stub)
        async with client.wire:
            await client.initialize(revision, capabilities)
            yield client


async def cut_after_one_event(client: Client, text: str = "a", id: object = 1) -> str:
    """Call, read the beginning of the stream and one event, and lose the rest. The id of that event."""

    async def speak() -> None:
        await client.began(text)
        client.stub.talks[text].progress(1)

    speaking = runtime.spawn(speak(), "speak")
    async with client.talking(text, id) as answer:
        primed, event = await answer.next(), await answer.next()
        await speaking
    assert (primed.data, primed.retry) == ("", RETRY_MILLISECONDS) and primed.id and event.id and primed.id != event.id
    assert event.message["params"]["progress"] == 1
    return event.id


async def test_a_client_that_lost_a_call_gets_exactly_what_it_missed_and_then_the_answer(stub: TalkingStub) -> None:
    async with client_of(stub) as client:
        last = await cut_after_one_event(client)
        stub.talks["a"].progress(2)
        async with client.resumed(last) as answer:
            primed, missed = await answer.next(), await answer.next()
            assert (primed.id, primed.data) == (last, "") and missed.message["params"] == {"progressToken": "p", "progress": 2}
            stub.talks["a"].progress(3)
            assert (await answer.next()).message["params"]["progress"] == 3
            stub.talks["a"].answer("done")
            (response,) = await answer.rest()
        assert text_of(response.message) == "done" and response.message["id"] == 1
        assert len({last, missed.id, response.id}) == 3 and stub.told("notifications/cancelled") == []
        assert [entry["rpc"] for entry in stub.seen.requests].count("tools/call") == 1


async def test_c1_an_answer_that_came_while_the_client_was_away_is_kept_for_it(stub: TalkingStub) -> None:
    async with client_of(stub) as client:
        last = await cut_after_one_event(client)
        stub.talks["a"].answer("done")
        (session,) = client.gateway.gateway.sessions.all()
        await client.gateway.until(lambda: not session.busy)
        for _ in range(2):
            async with client.resumed(last) as answer:
                _, response = await answer.rest()
                assert text_of(response.message) == "done"
        async with client.resumed(response.id) as answer:
            assert [event.data for event in await answer.rest()] == [""]


async def test_a_stream_that_is_lost_twice_is_resumed_twice(stub: TalkingStub) -> None:
    async with client_of(stub) as client:
        last: str | None = await cut_after_one_event(client)
        for step in (2, 3):
            stub.talks["a"].progress(step)
            async with client.resumed(last) as answer:
                await answer.next()
                event = await answer.next()
                assert event.message["params"]["progress"] == step
                last = event.id
        stub.talks["a"].answer("done")
        async with client.resumed(last) as answer:
            assert [text_of(event.message) for event in await answer.rest() if event.data] == ["done"]


async def test_a_stream_that_is_resumed_says_nothing_of_another(stub: TalkingStub) -> None:
    async with client_of(stub) as client:
        lasts = [await cut_after_one_event(client, text, id) for id, text in enumerate("ab")]
        for number, text in enumerate("ab"):
            stub.talks[text].progress(10 + number)
            stub.talks[text].answer(text)
        for number, (text, last) in enumerate(zip("ab", lasts, strict=True)):
            async with client.resumed(last) as answer:
                _, said, response = await answer.rest()
                assert said.message["params"]["progress"] == 10 + number and text_of(response.message) == text


async def test_i11_nobody_else_resumes_a_stream(stub: TalkingStub) -> None:
    tokens = {name: new_token() for name in ("ada", "eve")}
    auth = {"tokens": {name: hashed for name, (_, hashed) in tokens.items()}}
    document = {"mcpServers": {"up": {"url": stub.url}}, "gateway": {"auth": auth}}
    async with serving(document) as gateway, asyncio.timeout(20), contextlib.AsyncExitStack() as stack:
        ada, also_ada, eve = (
            Client(gateway, stub, {"authorization": f"Bearer {tokens[name][0]}"}) for name in ("ada", "ada", "eve")
        )
        for client in (ada, also_ada, eve):
            await stack.enter_async_context(client.wire)
            await client.initialize()
        last = await cut_after_one_event(ada)
        stub.talks["a"].answer("for ada alone")
        stolen = {"mcp-session-id": ada.wire.session}
        for headers, status in (
            (eve.headers, 400),
            (also_ada.headers, 400),
            ({**eve.headers, **stolen}, 404),
        ):
            async with stream(ada.url, None, headers, last_event_id=last) as answer:
                assert answer.status == status and b"for ada" not in await answer.response.aread()
        async with ada.resumed(last) as answer:
            assert text_of((await answer.rest())[-1].message) == "for ada alone"


@pytest.mark.parametrize("id", ["", "nonsense", "1-1", "99-1", "0-", "0-x"])
async def test_an_unknown_id_resumes_nothing_and_takes_no_stream_away(id: str, stub: TalkingStub) -> None:
    async with client_of(stub) as client:
        (session,) = client.gateway.gateway.sessions.all()
        async with stream(client.url, None, client.headers) as listening:
            await listening.next()
            listened_on = session.stream
            async with client.resumed(id or "-") as answer:
                if id.startswith("0-"):
                    assert answer.status == 200  # of this stream one can always go on
                else:
                    assert answer.status == 400 and session.stream is listened_on


async def test_a_question_waits_for_the_client_that_lost_it(stub: TalkingStub) -> None:
    async with client_of(stub, capabilities=ELICITATION) as client:
        last = await cut_after_one_event(client)
        stub.talks["a"].ask()
        async with client.resumed(last) as answer:
            await answer.next()
            question = (await answer.next()).message
            assert question["method"] == "elicitation/create"
        async with client.resumed(last) as answer:
            await answer.next()
            assert (await answer.next()).message == question
            said = {"action": "accept", "content": {"name": "ada"}}
            await client.wire.post({"jsonrpc": "2.0", "id": question["id"], "result": said})
            await client.gateway.until(lambda: bool(stub.answers()))
            stub.talks["a"].answer("thanks")
            assert text_of((await answer.rest())[-1].message) == "thanks"
        assert [(each["id"], each["result"]) for each in stub.answers()] == [("who", said)]


async def test_the_stream_of_what_is_said_outside_calls_goes_on_where_it_was(stub: TalkingStub) -> None:
    async with client_of(stub) as client:
        (session,) = client.gateway.gateway.sessions.all()
        async with stream(client.url, None, client.headers) as listening:
            primed = await listening.next()
            assert (primed.data, primed.retry) == ("", RETRY_MILLISECONDS)
            for number in (1, 2, 3):
                session.push("notifications/message", b'{"level":"info","data":%d}' % number)
            first = await listening.next()
        await client.gateway.until(lambda: session.stream is None)
        session.push("notifications/message", b'{"level":"info","data":4}')
        async with client.resumed(first.id) as listening:
            await listening.next()
            said = [(await listening.next()).message["params"]["data"] for _ in range(3)]
            assert said == [2, 3, 4]
            assert not session.busy and session.listening


async def test_an_ordinary_answer_is_plain_and_nothing_of_it_is_kept(stub: TalkingStub) -> None:
    async with client_of(stub) as client:
        reply = await client.wire.post({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "echo"}})
        assert reply.headers["content-type"] == "application/json"
        (session,) = client.gateway.gateway.sessions.all()
        assert session.kept == {} and len(client.gateway.gateway._edge.store) == 0


async def test_a_client_that_names_streams_first_is_answered_with_one(stub: TalkingStub) -> None:
    async with client_of(stub) as client:
        for accept, kind in (("text/event-stream, application/json", "text/event-stream"), ("*/*", "application/json")):
            echo = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "x"}}}
            reply = await client.wire.post(echo, {"accept": accept})
            assert reply.headers["content-type"] == kind and text_of(reply.message) == "x"


@pytest.mark.parametrize("revision", ["2025-03-26", "2025-06-18"])
async def test_older_clients_get_streams_as_they_always_were(revision: str, stub: TalkingStub) -> None:
    async with client_of(stub, revision) as client:

        async def speak() -> None:
            await client.began()
            stub.talks["a"].progress(1)
            stub.talks["a"].answer("done")

        speaking = runtime.spawn(speak(), "speak")
        async with client.talking() as answer:
            events = await answer.rest()
            await speaking
        assert [(event.id, event.retry) for event in events] == [(None, None)] * 2
        (session,) = client.gateway.gateway.sessions.all()
        assert session.kept == {}


async def test_a_session_that_ends_takes_what_was_kept_with_it(stub: TalkingStub) -> None:
    async with client_of(stub) as client:
        last = await cut_after_one_event(client)
        store = client.gateway.gateway._edge.store
        assert len(store) == 1
        assert await client.wire.delete() == 204
        await client.gateway.until(lambda: len(stub.told("notifications/cancelled")) == 1)
        async with client.resumed(last) as answer:
            assert answer.status == 404
        assert len(store) == 0


async def test_a_client_that_is_cut_off_and_stays_away_leaves_no_task_behind(stub: TalkingStub) -> None:
    async with client_of(stub, capabilities=ELICITATION) as client:
        before: list[Any] = runtime.running_tasks()
        await cut_after_one_event(client)
        stub.talks["a"].answer("nobody reads this")
        (session,) = client.gateway.gateway.sessions.all()
        await client.gateway.until(lambda: not session.busy and set(runtime.running_tasks()) <= {*before, "listen to up"})


class Polled(TalkingStub):
    """A server that ends the stream of each call before its answer, and gives the answer to whoever comes back for it."""

    def __init__(self) -> None:
        super().__init__()
        self.came_back = 0
        self.answering = asyncio.Event()

    async def _answer(self, request: Request, message: Message, writer: asyncio.StreamWriter) -> None:
        if message["method"] != "tools/call":
            await super()._answer(request, message, writer)
            return
        self.called = message
        writer.write(head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
        writer.write(chunk(b"id: 7\nretry: 120\ndata:\n\n") + chunk(b""))

    async def _stream(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.headers.get("last-event-id") != "7":
            await super()._stream(request, reader, writer)
            return
        self.came_back += 1
        await self.answering.wait()
        writer.write(head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
        content = [{"type": "text", "text": "fetched"}]
        response = {"jsonrpc": "2.0", "id": self.called["id"], "result": {"content": content}}
        writer.write(chunk(event(response)) + chunk(b""))


@pytest.fixture
async def polled() -> AsyncIterator[Polled]:
    async with Polled() as server:
        yield server


async def test_a_server_that_has_its_answer_fetched_has_it_fetched_by_the_client_too(polled: Polled) -> None:
    async with client_of(polled) as client:
        async with client.talking() as answer:
            *_, last = events = await answer.rest()
        assert {event.data for event in events} == {""} and last.retry == 120
        await client.gateway.until(lambda: polled.came_back == 1)
        async with client.resumed(last.id) as answer:
            assert (await answer.next()).id == last.id
            polled.answering.set()
            (response,) = await answer.rest()
        assert text_of(response.message) == "fetched" and response.message["id"] == 1


@pytest.mark.parametrize("revision", ["2025-03-26", "2025-06-18"])
async def test_an_older_client_simply_waits_for_an_answer_that_is_fetched(revision: str, polled: Polled) -> None:
    async with client_of(polled, revision) as client:
        polled.answering.set()
        reply = await client.wire.post(talk("a"))
        assert text_of(reply.message) == "fetched" and len(reply.messages) == 1
