"""A server that watches who uses it: every session belongs to whoever opened it, and every answer says whose it is.

It can be told to restart, to forget its sessions and to refuse credentials. In what it sends, a *tag* says on whose behalf:
the session, the credential, the conversation and the number of the call.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.servers.http11 import Request, chunk, head, read_request, reply

Message = dict[str, Any]
Tag = dict[str, Any]

REMEMBERED_CALLS = 100_000
STREAM = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
TOOLS = ("count", "steps", "ask", "push", "hold", "wait")
SINGLE = ("count", "push", "hold")
"""Tools that are not declared safe to repeat: no call of theirs may run twice."""


@dataclass(eq=False)
class Session:
    """One session as the server knows it."""

    id: str
    credential: str
    opener: str
    """What the client that opened it called itself."""
    bound: bool
    """Whether it is that conversation's alone, rather than all its principal's."""
    count: int = 0
    ended: str = ""
    """'deleted' or 'lost' once it is over."""
    refused: bool = False
    """Whether a call in it was refused its credential: the gateway gives such a session up."""
    shown: bool = False
    """Whether a client showed its id, so that the answer which names it arrived."""
    cut: bool = False
    """Whether what names it, or ends it, may have been on a connection when all of them broke."""
    subscriptions: set[str] = field(default_factory=set)
    listeners: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def given_up(self) -> bool:
        return bool(self.ended) or self.refused


@dataclass(eq=False)
class Hold:
    """A call that the server holds until it is released or cancelled."""

    began: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Exchange:
    """One tool call on its way: the request it came with, and where its answer goes."""

    request: Request
    message: Message
    session: Session | None
    writer: asyncio.StreamWriter
    streaming: bool = False

    @property
    def credential(self) -> str:
        return credential_of(self.request)

    @property
    def arguments(self) -> Message:
        arguments: Message = self.message["params"]["arguments"]
        return arguments

    @property
    def tag(self) -> Tag:
        session = self.session.id if self.session is not None else ""
        who = {"conversation": self.arguments["conversation"], "call": self.arguments["call"]}
        return {"session": session, "credential": self.credential, **who}

    def say(self, method: str, params: Message, id: str | None = None) -> None:
        """Send a notification, or a question where it has an `id`, on the call's own stream."""
        if not self.streaming:
            self.streaming = True
            self.writer.write(head(200, STREAM))
        named = {"id": id} if id is not None else {}
        self.writer.write(chunk(event({"jsonrpc": "2.0", **named, "method": method, "params": params})))

    async def answer(self, outcome: Message) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": self.message["id"], **outcome}).encode()
        if self.streaming:
            self.writer.write(chunk(b"data: " + body + b"\n\n") + chunk(b""))
            await self.writer.drain()
        else:
            await reply(self.writer, 200, body)


class SoakUpstream:
    """One server of a soak, in the loop of whoever starts it.

    `per_conversation`: a session belongs to one conversation, otherwise to one principal. `stateful` is false for a server
    that names no sessions. What must not happen is put into `crossings`.
    """

    def __init__(
        self, name: str, crossings: list[str], dice: random.Random, *, stateful: bool = True, per_conversation: bool = False
    ) -> None:
        self.name = name
        self.stateful = stateful
        self.per_conversation = per_conversation
        self.sessions: dict[str, Session] = {}
        self.holds: dict[str, Hold] = {}
        self.refusal_chance = 0.0
        self.revoked: Counter[str] = Counter()
        """How many more requests of each principal are refused, whatever the dice say."""
        self.refusals: Counter[str] = Counter()
        """How often each principal was refused."""
        self.breaks = 0
        """Grows when connections begin to break, and again when new ones can be made."""
        self.losses = 0
        """How often all sessions were lost."""
        self.down = False
        self.troubled_at = -math.inf
        """When, by the loop's clock, its last break or loss was over."""
        self.refused_at: dict[str, float] = {}
        """When each principal, and each credential, was refused last."""
        self.port = 0
        self._crossings = crossings
        self._dice = dice
        self._lost_as = "404"
        self._handlers: set[asyncio.Task[None]] = set()
        self._writers: dict[socket.socket, asyncio.StreamWriter] = {}
        self._running: dict[tuple[str, object], Exchange] = {}
        self._questions: dict[tuple[str, str], asyncio.Future[Message]] = {}
        self.ran_in: dict[str, str] = {}
        """Which session each call ran in, the last time."""
        self._cancellable: dict[str, str] = {}
        self._minted = 0
        self._tools: dict[str, Callable[[Exchange], Coroutine[Any, Any, Message]]] = {
            "count": self._count,
            "steps": self._steps,
            "ask": self._ask,
            "push": self._push,
            "hold": self._hold,
            "wait": self._hold,
        }

    def __repr__(self) -> str:
        return f"<SoakUpstream {self.name} on {self.port}: {len(self.sessions)} sessions>"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def open_sessions(self) -> list[Session]:
        return [session for session in self.sessions.values() if not session.ended]

    @property
    def left_over(self) -> list[Session]:
        """Open sessions that somebody should have ended, and could."""
        return [session for session in self.open_sessions if not session.cut]

    # Orders.

    def start(self) -> None:
        """Serve on loopback, at the port it had before if there was one."""
        self._listener = listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(listener, self._accept)

    async def stop(self) -> None:
        """Break off every connection and listen no more."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        await self._break_off()

    async def _break_off(self) -> None:
        for writer in self._writers.values():
            writer.transport.abort()
        handlers = tuple(self._handlers)
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)

    async def restart(self) -> None:
        """Die and come back at the same port, without any session."""
        async with self._breaking():
            self._lose()
            await self.stop()
            self.start()

    async def drop(self) -> None:
        """Lose all connections and nothing else, as when something on the way gives up."""
        async with self._breaking():
            for session in self.open_sessions:
                # Its DELETE may just have been on its way, or its name; such sessions are for the server to let expire.
                session.cut = session.refused or not session.shown or session.opener in self._cancellable
            await self._break_off()

    @asynccontextmanager
    async def _breaking(self) -> AsyncIterator[None]:
        self.breaks += 1
        self.down = True
        yield
        self.down = False
        self.breaks += 1
        self.troubled_at = asyncio.get_running_loop().time()

    def forget(self, how: str) -> None:
        """Lose all sessions; who names one of them is answered `how`: '404' or '400'."""
        self._lost_as = how
        self._lose()

    def _lose(self) -> None:
        self.losses += 1
        self.troubled_at = asyncio.get_running_loop().time()
        for session in self.open_sessions:
            session.ended = "lost"
            for writer in session.listeners:
                writer.close()
        for question in self._questions.values():
            if not question.done():
                question.set_result({"error": {"message": "the session is lost"}})
        for call in tuple(self.holds):
            self.release(call)

    def hold(self, call: str, *, may_be_cancelled: bool) -> Hold:
        """Prepare for a call of `hold`. Whoever asks lets it go with `release`."""
        if may_be_cancelled:
            _remember(self._cancellable, call)
        self.holds[call] = hold = Hold()
        return hold

    def will_end(self, conversation: str) -> None:
        """All calls of a conversation may be cancelled from now on."""
        _remember(self._cancellable, conversation)

    def release(self, call: str) -> None:
        """Answer a call that is held, or will be."""
        hold = self.holds.pop(call, None)
        if hold is not None:
            hold.over.set()

    # Wires.

    def _accept(self) -> None:
        """Take one connection. Servers of asyncio would lose one that comes while they are closed, and never close it."""
        try:
            connection, _ = self._listener.accept()
        except OSError:  # the client has gone again
            return
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._connected(connection))
        self._handlers.add(task)
        task.add_done_callback(partial(self._disconnected, connection))

    async def _connected(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        self._writers[connection] = writer
        with suppress(ConnectionError, asyncio.IncompleteReadError):  # the client has gone
            while (request := await read_request(reader)) is not None:
                await self._serve(request, reader, writer)

    def _disconnected(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._handlers.discard(task)
        writer = self._writers.pop(connection, None)
        if writer is not None:
            writer.close()
        else:
            connection.close()  # its task was cancelled before it began
        if not task.cancelled():
            task.result()

    async def _serve(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message: Message = json.loads(request.body) if request.body else {}
        method = message.get("method")
        session = self.sessions.get(request.session or "")
        if session is not None:
            session.shown, session.cut = True, False
            self._check_credential(request, session)
        if self._refuses(message, session):
            await reply(writer, 401, b"", {"www-authenticate": "Bearer"})
        elif self.stateful and method != "initialize" and (session is None or session.ended):
            await reply(writer, int(self._lost_as), lost(message.get("id"), self._lost_as))
        elif request.method == "GET":
            await self._listen(session, reader, writer)
        elif request.method == "DELETE":
            assert session is not None
            session.ended = "deleted"
            await reply(writer, 200)
        elif method == "tools/call":
            await self._call(Exchange(request, message, session, writer))
        elif method is not None and "id" in message:
            await self._answer(request, message, session, writer)
        else:
            self._take(request, message)
            await reply(writer, 202)

    def _check_credential(self, request: Request, session: Session) -> None:
        if (shown := credential_of(request)) != session.credential:
            self._crossings.append(f"{self.name}: {shown!r} was shown in session {session.id} of {session.credential!r}")

    def _refuses(self, message: Message, session: Session | None) -> bool:
        """Whether the credential is refused this time. The gateway's own, which is none, never is."""
        principal = principal_of(caller_of(message))
        if not principal or not (self._dice.random() < self.refusal_chance or self.revoked[principal] > 0):
            return False
        self.revoked[principal] -= 1
        self.refusals[principal] += 1
        self.refused_at[principal] = self.refused_at[key_of(principal)] = asyncio.get_running_loop().time()
        if session is not None:
            session.refused = True
        return True

    async def _listen(self, session: Session | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if session is None:
            await reply(writer, 405)
            return
        session.listeners.add(writer)
        try:
            writer.write(head(200, STREAM))
            await reader.read()
        finally:
            session.listeners.discard(writer)
        raise ConnectionResetError("the listener has gone")

    # Requests other than calls.

    async def _answer(self, request: Request, message: Message, session: Session | None, writer: asyncio.StreamWriter) -> None:
        extra: dict[str, str] = {}
        params = message.get("params", {})
        if message["method"] == "initialize" and self.stateful:
            extra["mcp-session-id"] = self._open(request, params).id
        result = self._result(message["method"], params, credential_of(request), session)
        outcome = {"result": result} if result is not None else {"error": {"code": -32601, "message": "Method not found"}}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], **outcome}).encode()
        await reply(writer, 200, body, extra)

    def _open(self, request: Request, params: Message) -> Session:
        self._minted += 1
        session = Session(
            f"{self.name}-{self._minted}", credential_of(request), params["clientInfo"]["name"], self.per_conversation
        )
        self.sessions[session.id] = session
        return session

    def _result(self, method: str, params: Message, credential: str, session: Session | None) -> Message | None:
        match method:
            case "initialize":
                capabilities = {"tools": {"listChanged": True}, "logging": {}, "resources": {"subscribe": True}}
                info = {"name": self.name, "version": "1"}
                return {"protocolVersion": params["protocolVersion"], "capabilities": capabilities, "serverInfo": info}
            case "ping" | "logging/setLevel":
                return {}
            case "tools/list":
                return {"tools": [self._tool(name, credential) for name in TOOLS]}
            case "resources/list":
                return {"resources": [{"uri": f"{self.name}://of/{credential}", "name": credential}]}
            case "resources/templates/list":
                return {"resourceTemplates": [{"uriTemplate": f"{self.name}://{{who}}/{{what}}", "name": credential}]}
            case "resources/read":
                tag = self._tag_of_resource(params["uri"], credential, session)
                return {"contents": [{"uri": params["uri"], "text": json.dumps(tag)}]}
            case "resources/subscribe":
                self._tag_of_resource(params["uri"], credential, session)
                if session is not None:
                    session.subscriptions.add(params["uri"])
                return {}
        return None

    def _tool(self, name: str, credential: str) -> Message:
        hints = {"readOnlyHint": name not in SINGLE, "idempotentHint": False}
        return {"name": name, "description": credential, "inputSchema": {"type": "object"}, "annotations": hints}

    def _tag_of_resource(self, uri: str, credential: str, session: Session | None) -> Tag:
        """The tag of a request for a resource, whose URI says which conversation asks."""
        conversation, _, call = uri.partition("://")[2].partition("/")
        self._check_caller(conversation, credential, session)
        return {"session": session.id if session else "", "credential": credential, "conversation": conversation, "call": call}

    def _check_caller(self, conversation: str, credential: str, session: Session | None) -> None:
        if credential != key_of(conversation):
            self._crossings.append(f"{self.name}: a call of {conversation} was made with {credential!r}")
        if session is None:
            return
        owner, caller = session.opener, conversation
        if not self.per_conversation:
            owner, caller = principal_of(owner), principal_of(caller)
        if owner != caller:
            self._crossings.append(f"{self.name}: a call of {conversation} ran in session {session.id} of {session.opener}")

    def _take(self, request: Request, message: Message) -> None:
        """A notification, or the answer to a question."""
        session = request.session or ""
        if "id" in message:
            question = self._questions.get((session, str(message["id"])))
            if question is not None and not question.done():
                question.set_result(message)
        elif message.get("method") == "notifications/cancelled" and self.stateful:
            running = self._running.get((session, message["params"]["requestId"]))
            if running is not None:
                self._cancel(running)

    def _cancel(self, running: Exchange) -> None:
        call, conversation = running.arguments["call"], running.arguments["conversation"]
        if call in self._cancellable or conversation in self._cancellable:
            self.release(call)
        else:
            self._crossings.append(f"{self.name}: {call} of {conversation} was cancelled by somebody else")

    # Calls.

    async def _call(self, exchange: Exchange) -> None:
        arguments = exchange.arguments
        self._check_caller(arguments["conversation"], exchange.credential, exchange.session)
        name, call = exchange.message["params"]["name"], arguments["call"]
        if name in SINGLE and call in self.ran_in:
            self._crossings.append(f"{self.name}: {call} of {arguments['conversation']} ran twice")
        _remember(self.ran_in, call, exchange.request.session or "")
        key = exchange.request.session or exchange.credential, exchange.message["id"]
        self._running[key] = exchange
        try:
            outcome = await self._tools[name](exchange)
        finally:
            self._running.pop(key, None)
        await exchange.answer(outcome)

    async def _count(self, exchange: Exchange) -> Message:
        return self._tagged(exchange)

    def _tagged(self, exchange: Exchange, **more: object) -> Message:
        """The ordinary result: the tag, and how many calls the session had."""
        session = exchange.session
        if session is not None:
            session.count += 1
        tag = exchange.tag | {"count": session.count if session is not None else 0} | more
        return {"result": {"content": [{"type": "text", "text": json.dumps(tag)}]}}

    async def _steps(self, exchange: Exchange) -> Message:
        token = exchange.message["params"].get("_meta", {}).get("progressToken")
        for step in range(2):
            if token is not None:
                tag = json.dumps(exchange.tag)
                exchange.say("notifications/progress", {"progressToken": token, "progress": step, "message": tag})
            exchange.say("notifications/message", {"level": "info", "data": exchange.tag})
            await asyncio.sleep(0)
        return self._tagged(exchange)

    async def _ask(self, exchange: Exchange) -> Message:
        """Asks the client a question, whose answer must come from the conversation that is asked."""
        question = f"question-{exchange.arguments['call']}"
        key = exchange.request.session or "", question
        self._questions[key] = future = asyncio.get_running_loop().create_future()
        content = {"type": "text", "text": json.dumps(exchange.tag)}
        exchange.say("sampling/createMessage", {"messages": [{"role": "user", "content": content}], "maxTokens": 9}, question)
        try:
            answer = await future
        finally:
            del self._questions[key]
        if "result" not in answer:
            return {"error": {"code": -32603, "message": f"the question was not answered: {answer['error']['message']}"}}
        said = answer["result"]["content"]["text"]
        if said != exchange.arguments["conversation"]:
            self._crossings.append(f"{self.name}: {said} answered a question of {exchange.arguments['conversation']}")
        return self._tagged(exchange)

    async def _push(self, exchange: Exchange) -> Message:
        """Says that what the session subscribed to has changed, and its list of prompts: on the call's stream, or aside."""
        session = exchange.session
        assert session is not None
        sayings = [("notifications/resources/updated", {"uri": uri, "tag": exchange.tag}) for uri in session.subscriptions]
        if self.per_conversation:
            sayings.append(("notifications/prompts/list_changed", {}))
        if exchange.arguments["aside"]:
            sayings.append(("notifications/message", {"level": "info", "data": exchange.tag}))
            for writer in session.listeners:
                for method, params in sayings:
                    writer.write(chunk(event({"jsonrpc": "2.0", "method": method, "params": params})))
        else:
            for method, params in sayings:
                exchange.say(method, params)
        return self._tagged(exchange, heard=len(session.listeners))

    async def _hold(self, exchange: Exchange) -> Message:
        """Waits until it is released. One that nobody prepared for any more was repeated, and answers at once."""
        if exchange.arguments["stream"]:
            exchange.say("notifications/message", {"level": "info", "data": exchange.tag})
        hold = self.holds.get(exchange.arguments["call"])
        if hold is not None:
            hold.began.set()
            try:
                await hold.over.wait()
            finally:
                hold.over.set()  # its connection may have broken: then nobody will cancel it here
        return self._tagged(exchange)


def credential_of(request: Request) -> str:
    return request.headers.get("x-api-key", "")


def caller_of(message: Message) -> str:
    """The conversation whose call this is, or for which a session is opened; '' for what the gateway does for itself."""
    params = message.get("params", {})
    match message.get("method"):
        case "initialize":
            name: str = params["clientInfo"]["name"]
            return name if "." in name else ""
        case "tools/call":
            caller: str = params["arguments"]["conversation"]
            return caller
    return ""


def principal_of(conversation: str) -> str:
    """Conversations are named after their principal: 'p7.1.0' is one of 'p7'."""
    return conversation.partition(".")[0]


def key_of(conversation: str) -> str:
    """The credential that calls of a conversation, or of a principal, must be made with. Every two principals share one."""
    return f"key-of-team-{int(principal_of(conversation).removeprefix('p')) // 2}"


def _remember(calls: dict[str, str], call: str, session: str = "") -> None:
    calls[call] = session
    if len(calls) > REMEMBERED_CALLS:
        del calls[next(iter(calls))]


def event(message: Message) -> bytes:
    return b"data: " + json.dumps(message).encode() + b"\n\n"


def lost(id: object, status: str) -> bytes:
    """The body that goes with an unknown session, as servers word it."""
    code, text = (-32600, "Session not found") if status == "404" else (-32000, "Bad Request: Server not initialized")
    return json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}}).encode()
