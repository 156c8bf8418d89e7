"""One client's conversation with the gateway, suspicious of everything it is told."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from mcpgateway import runtime
from tests.soak.ledger import Ledger
from tests.soak.upstream import SoakUpstream, Tag, key_of, principal_of
from tests.soak.wire import Answer, Message, Wire

LAG_SECONDS = 10.0
"""A failed opening is told to all who waited for it. Where sessions are shared, some of them came after the trouble."""

CANCELLED = -32800
RESOURCE_NOT_FOUND = -32002
GONE = (asyncio.IncompleteReadError, ConnectionError)


class Principal:
    """One caller: a name, the key that upstreams must see, and two tokens that both stand for it."""

    def __init__(self, name: str, tokens: tuple[str, str], port: int) -> None:
        self.name = name
        self.key = key_of(name)
        self.wire = Wire(port)
        self._tokens = itertools.cycle(tokens)
        self.token = next(self._tokens)

    def __repr__(self) -> str:
        return f"<Principal {self.name}>"

    def refresh(self) -> None:
        """Show the other token from now on."""
        self.token = next(self._tokens)


class Marks(NamedTuple):
    """What an upstream had gone through when a request began."""

    began_at: float
    breaks: int
    losses: int
    down: bool
    bare: bool
    """Whether the request found no session that was still good."""


class Conversation:
    """One client session after the other, at one endpoint. `upstreams` are those behind it.

    A call that fails for a reason that the storm gave is None; every other failure is put into the ledger.
    """

    def __init__(
        self, principal: Principal, number: int, path: str, upstreams: Mapping[str, SoakUpstream], ledger: Ledger
    ) -> None:
        self.principal = principal
        self.upstreams = upstreams
        self.session: str | None = None
        self.cancels = False
        """Whether calls may be answered as cancelled: one was taken back, or their session is being ended."""
        self.shut_out = False
        """Whether the last call met an open circuit breaker: an honest client waits a moment."""
        self.updates = asyncio.Event()
        """Set when something that was subscribed to is said to have changed."""
        self._number = number
        self._path = path
        self._ledger = ledger
        self._life = -1
        self._ids = itertools.count(1)
        self._listening: asyncio.Task[None] | None = None
        self._begin_life()

    def __repr__(self) -> str:
        return f"<Conversation {self.name} at {self._path}>"

    def _begin_life(self) -> None:
        self._life += 1
        self.name = f"{self.principal.name}.{self._number}.{self._life}"
        self.session = None
        self.cancels = False
        self._subscriptions: set[str] = set()
        self._pushed = False
        self._last: dict[str, tuple[str, int]] = {}
        self._unsure: set[str] = set()
        self._left: list[str] = []
        self._tokens: dict[object, str] = {}

    # Sessions.

    async def open(self) -> bool:
        """Begin a session. False if that failed for a known reason."""
        info = {"name": self.name, "version": "1"}
        params = {"protocolVersion": "2025-06-18", "capabilities": {"sampling": {}}, "clientInfo": info}
        marks = self._marks()
        answer = await self._post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        response = (await answer.read())[-1]
        if "result" not in response:
            self._explain(response["error"], marks, "initialize")
            return False
        self.session = answer.headers["mcp-session-id"]
        await self.notify("notifications/initialized", {})
        return True

    async def end(self) -> None:
        """DELETE the session, see that it is gone, and be another conversation from now on."""
        session, self.cancels = self.session, True
        for upstream in self.upstreams.values():
            upstream.will_end(self.name)
        await self._expect(204, await self._send("DELETE"), "DELETE")
        if session is not None:
            await self._expect(404, await self._send("DELETE", session), "DELETE of a session that is over")
        await self.listen_no_more()

    async def begin_again(self) -> bool:
        """The next life, as another conversation."""
        self._begin_life()
        return await self.open()

    async def try_session_of(self, other: Conversation) -> None:
        """Show somebody else's session id with one's own token: it must be as unknown as one that never was."""
        session = other.session
        if session is None or other.principal is self.principal:
            return
        ping = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
        for method, body in (("POST", ping), ("GET", b""), ("DELETE", b"")):
            answer = await self._send(method, session, body)
            if answer.status != 404:
                self._ledger.crossings.append(
                    f"{self.name} got HTTP {answer.status} for {method} in the session of {other.name}"
                )
                answer.leave()
            else:
                await answer.read()

    async def listen(self) -> None:
        """Hear what is said outside calls."""
        await self.listen_no_more()
        answer = await self._send("GET", self.session)
        if answer.status == 200:
            self._listening = runtime.spawn(self._hear(answer), f"{self.name} listens")
        else:
            self._unexpected(f"GET was answered with HTTP {answer.status}: {await answer.read()}")

    async def listen_no_more(self) -> None:
        task, self._listening = self._listening, None
        await runtime.end_task(task)

    @property
    def listens(self) -> bool:
        return self._listening is not None

    async def _hear(self, answer: Answer) -> None:
        try:
            async for message in answer.messages():
                if "id" in message:
                    self._ledger.wrong.append(f"{self.name} was asked outside any call: {message}")
                else:
                    self._notified(message, None)
        except GONE as error:
            self._unexpected(f"its GET stream broke: {error!r}")
        finally:
            answer.leave()

    # Requests.

    def next_call(self) -> str:
        """A name for a call that no other call has."""
        return f"{self.name}#{next(self._ids)}"

    async def call(self, upstream: str, tool: str, call: str = "", **arguments: object) -> Tag | None:
        """Call a tool and check all that comes of it: the answer's tag."""
        self._ledger.calls += 1
        message, call = self.call_message(upstream, tool, call, **arguments)
        self._tokens[message["params"]["_meta"]["progressToken"]] = call
        if tool == "push":
            self._pushed = True
        try:
            result = await self._request(message, upstream, call)
        finally:
            del self._tokens[message["params"]["_meta"]["progressToken"]]
        if result is None:
            self._unsure.add(upstream)
            return None
        tag: Tag = json.loads(result["content"][0]["text"])
        self._check_answer(tag, upstream, call)
        self._check_continuity(tag, upstream, "mcpgateway/session" in result.get("_meta", {}))
        return tag

    def call_message(self, upstream: str, tool: str, call: str = "", **arguments: object) -> tuple[Message, str]:
        """A tools/call that is not sent yet, and what the call is named."""
        call = call or self.next_call()
        id = int(call.rpartition("#")[2])
        name = tool if len(self.upstreams) == 1 else f"{upstream}__{tool}"
        arguments = {"conversation": self.name, "call": call, **arguments}
        params = {"name": name, "arguments": arguments, "_meta": {"progressToken": f"token-{id}"}}
        return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}, call

    def unsure_of(self, upstream: str) -> None:
        """Nobody knows what the last call was told."""
        self._unsure.add(upstream)

    def left(self, upstream: str, call: str) -> None:
        """A call was left to itself. What it is told, even later, nobody hears."""
        self.unsure_of(upstream)
        self._left.append(call)

    async def read(self, upstream: str) -> None:
        """Read a resource."""
        call = self.next_call()
        uri = f"{upstream}://{self.name}/{call}"
        result = await self.ask_for("resources/read", {"uri": uri}, upstream)
        self._unsure.add(upstream)
        if result is not None:
            self._check_answer(json.loads(result["contents"][0]["text"]), upstream, call)

    async def subscribe(self, upstream: str) -> bool:
        """Subscribe to a resource of one's own. False if that failed for a known reason."""
        uri = f"{upstream}://{self.name}/news"
        self._subscriptions.add(uri)
        self._unsure.add(upstream)
        return await self.ask_for("resources/subscribe", {"uri": uri}, upstream) is not None

    async def list(self, method: str, field: str, credential: str) -> None:
        """List something: each item says for which credential it was listed."""
        result = await self.ask_for(method, {})
        items = result[field] if result is not None else []
        for item in items:
            if item[credential] != self.principal.key:
                self._ledger.crossings.append(f"{self.name} was shown {item} by {method}")

    async def ask_for(self, method: str, params: Message, upstream: str | None = None) -> Message | None:
        """Any other request: its result."""
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        return await self._request(message, upstream, None)

    async def _request(self, message: Message, upstream: str | None, call: str | None) -> Message | None:
        marks = self._marks(upstream)
        try:
            answer = await self._post(message)
            if answer.status != 200:
                self._unexpected(f"HTTP {answer.status} for {message['method']}: {await answer.read()}")
                return None
            response = await self.last_of(answer, call)
        except GONE as error:
            self._unexpected(f"{message['method']} broke off: {error!r}")
            return None
        if response.get("id") != message["id"]:
            self._ledger.crossings.append(f"{self.name} got {response} for request {message['id']}")
            return None
        if "error" in response:
            self._explain(response["error"], marks, message["method"], upstream)
        result: Message | None = response.get("result")
        return result

    async def last_of(self, answer: Answer, call: str | None) -> Message:
        """The response in an answer, after everything else in it was heard and answered."""
        response: Message = {}
        async for message in self._each(answer):
            if "method" not in message:
                response = message
            elif "id" in message:
                await self._answer(message, call)
            else:
                self._notified(message, call)
        return response

    @staticmethod
    async def _each(answer: Answer) -> AsyncIterator[Message]:
        try:
            async for message in answer.messages():
                yield message
        except BaseException:
            answer.leave()
            raise

    async def notify(self, method: str, params: Message) -> None:
        """Send a notification."""
        await self._expect(202, await self._post({"jsonrpc": "2.0", "method": method, "params": params}), method)

    async def start(self, message: Message) -> Answer:
        """Send a request; its answer from the head on, to be read or left. Unlike `call`, nothing of it is checked."""
        self._ledger.calls += 1
        return await self._post(message)

    async def _answer(self, question: Message, call: str | None) -> None:
        """Answer a question, with one's own name. It must be about the call on whose stream it came."""
        self._ledger.questions += 1
        tag = json.loads(question["params"]["messages"][0]["content"]["text"])
        if tag["call"] != call or tag["credential"] != self.principal.key:
            self._ledger.crossings.append(f"{self.name} was asked about {tag} in its call {call}")
        content = {"type": "text", "text": self.name}
        result = {"role": "assistant", "model": "none", "content": content}
        answer = await self._post({"jsonrpc": "2.0", "id": question["id"], "result": result})
        await self._expect(202, answer, "the answer to a question")

    async def _expect(self, status: int, answer: Answer, what: str) -> None:
        body = await answer.read()
        if answer.status != status:
            self._unexpected(f"{what} was answered with HTTP {answer.status}: {body}")

    async def _post(self, message: Message) -> Answer:
        return await self._send("POST", self.session, json.dumps(message).encode())

    async def _send(self, method: str, session: str | None = None, body: bytes = b"") -> Answer:
        headers = {
            "authorization": f"Bearer {self.principal.token}",
            "x-api-key": self.principal.key,
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
        }
        session = session or self.session
        if session is not None:
            headers |= {"mcp-session-id": session, "mcp-protocol-version": "2025-06-18"}
        return await self.principal.wire.send(method, self._path, headers, body)

    # Suspicion.

    def _owner(self, upstream: str) -> str:
        return self.name if self.upstreams[upstream].per_conversation else self.principal.name

    def _check_answer(self, tag: Tag, upstream: str, call: str) -> None:
        if tag["conversation"] != self.name or tag["call"] != call or tag["credential"] != self.principal.key:
            self._ledger.crossings.append(f"{self.name} got the answer {tag} to its call {call}")
        if not self._may_speak(tag, upstream):
            self._ledger.crossings.append(f"{self.name} was answered out of a session of somebody else: {tag}")

    def _may_speak(self, tag: Tag, upstream: str) -> bool:
        return not tag["session"] or self._ledger.owned(upstream, tag["session"], self._owner(upstream))

    def _check_continuity(self, tag: Tag, upstream: str, told: bool) -> None:
        """State goes on from answer to answer, unless the storm took it; then that must be said."""
        if not tag["session"]:
            return
        before, self._last[upstream] = self._last.get(upstream), (tag["session"], tag["count"])
        unsure = upstream in self._unsure
        self._unsure.discard(upstream)
        if before is None:
            return
        session, count = before
        if tag["session"] == session:
            if tag["count"] <= count and not unsure:
                self._unexpected(f"session {session} counted {count} and then {tag['count']}")
        elif not self.upstreams[upstream].sessions[session].given_up and not unsure:
            self._unexpected(f"session {session} was left for {tag['session']} without a reason")
        elif not (told or unsure or any(self.upstreams[upstream].ran_in.get(call) == tag["session"] for call in self._left)):
            self._unexpected(f"the state of session {session} was lost, and nobody said so")

    def _notified(self, message: Message, call: str | None) -> None:
        self._ledger.notifications += 1
        method, params = message["method"].removeprefix("notifications/"), message.get("params", {})
        if not self._is_for_us(method, params, call):
            self._ledger.wrong.append(f"{self.name} was told in {call or 'its GET stream'}: {message}")

    def _is_for_us(self, method: str, params: Message, call: str | None) -> bool:
        match method:
            case "progress":
                return call is not None and self._tokens.get(params["progressToken"]) == call and self._tagged(params, call)
            case "message":
                return params.get("logger") == "mcpgateway" or self._is_own(params["data"], call)
            case "resources/updated":
                self.updates.set()
                tag = params["tag"]
                own = tag["credential"] == self.principal.key and principal_of(tag["conversation"]) == self.principal.name
                return own and params["uri"] in self._subscriptions and self._may_speak(tag, params["uri"].partition(":")[0])
            case "prompts/list_changed":
                # No server declares prompts: only sessions that were asked to announce a change do so.
                return self._pushed
        return method in ("tools/list_changed", "resources/list_changed", "cancelled")

    def _tagged(self, params: Message, call: str) -> bool:
        return self._is_own(json.loads(params["message"]), call)

    def _is_own(self, tag: Tag, call: str | None) -> bool:
        own = tag["credential"] == self.principal.key and tag["conversation"] == self.name
        return own and call in (None, tag["call"]) and self._may_speak(tag, tag["session"].rpartition("-")[0])

    # Errors.

    def _marks(self, upstream: str | None = None) -> dict[str, Marks]:
        names = [upstream] if upstream is not None else [*self.upstreams]
        return {name: self._mark(self.upstreams[name]) for name in names}

    def _mark(self, upstream: SoakUpstream) -> Marks:
        now = asyncio.get_running_loop().time()
        last = self._last.get(upstream.name)
        bare = last is None or upstream.sessions[last[0]].given_up
        return Marks(now, upstream.breaks, upstream.losses, upstream.down, bare)

    def _explain(self, error: Message, marks: dict[str, Marks], method: str, upstream: str | None = None) -> None:
        """Count an error that has a known reason, and report any other."""
        data = error.get("data")
        kind = data.get("kind", "") if isinstance(data, dict) else ""
        self.shut_out = kind == "CircuitOpen"
        reasons = [name for name, mark in marks.items() if self._has_reason(error["code"], kind, name, mark, upstream is None)]
        named = not kind or any(f"'{name}'" in error["message"] for name in reasons)
        if (reasons and named) or (error["code"] == CANCELLED and self.cancels):
            self._ledger.failures += 1
        else:
            self._unexpected(f"{method} of {upstream}: {error}")

    def _has_reason(self, code: int, kind: str, name: str, mark: Marks, listing: bool) -> bool:
        """Whether the upstream had the trouble that the error tells of. What is listed is shared by all of one credential."""
        upstream = self.upstreams[name]
        shared = listing or not upstream.per_conversation or code == RESOURCE_NOT_FOUND
        since = mark.began_at - (LAG_SECONDS if shared else 0.0)
        troubled = mark.down or upstream.breaks > mark.breaks or upstream.troubled_at > since
        match kind:
            case "AuthRefused":
                return self._refused(upstream, since, listing)
            case "ConnectionLost" | "ConnectFailed":
                return troubled
            case "CircuitOpen":
                return upstream.breaks > 0
            case "SessionLost":
                # One loss is repaired by the gateway; it takes a second one in the same call to be heard of.
                return upstream.losses >= mark.losses + (1 if mark.bare else 2) or (troubled and shared)
        if code == RESOURCE_NOT_FOUND:  # whose it is cannot be found out while lists cannot be had
            return upstream.breaks > 0 or self._refused(upstream, since, listing=True)
        return code == -32603 and not kind and upstream.losses > mark.losses  # the question died with its session

    def _refused(self, upstream: SoakUpstream, since: float, listing: bool) -> bool:
        """Whether this principal was refused, or in case of lists anybody with its credential."""
        return upstream.refused_at.get(self.principal.key if listing else self.principal.name, -math.inf) >= since

    def _unexpected(self, text: str) -> None:
        self._ledger.unexpected.append(f"{self.name}: {text}")
