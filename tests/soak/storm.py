"""The soak itself: everybody at once, at random but from a seed; then nobody, and nothing may be left."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.until import until
from tests.soak.conversation import GONE, Conversation, Principal
from tests.soak.ledger import Faults, Ledger
from tests.soak.upstream import SoakUpstream, key_of
from tests.soak.wire import Answer, Message

OPERATION_SECONDS = 60.0
"""No operation takes so long: one that does hangs."""
SETTLE_SECONDS = 30.0
SHUT_OUT_SECONDS = 0.2
"""How long a client waits that met an open circuit breaker."""
BURST = 4
REVOKED_REQUESTS = 4
DESCRIPTORS = "/dev/fd"
AT_REST = ("leased", "opening", "closing", "waiting")
"""Figures of the pool that are 0 when nobody calls."""
GAUGES = ("pool_key_count", "open", "idle", "leased", "opening", "closing", "waiting")


@dataclass(frozen=True)
class Plan:
    """How many, for how long, and how much trouble. The storm ends after `steps` of each conversation, or `seconds`."""

    seed: int
    principals: int
    conversations: int = 2
    """Of each principal."""
    steps: int | None = None
    seconds: float | None = None
    trouble_every: int = 1000
    """Steps, of all conversations together, from one loss or restart to the next."""
    refusal_chance: float = 0.01


@dataclass(frozen=True)
class _Operation:
    """Something a client does, how often among all that it does, and whether it needs a server with sessions."""

    weight: int
    run: Callable[[Conversation, str], Coroutine[Any, Any, None]]
    stateful: bool = False


_Trouble = Callable[[Conversation], Coroutine[Any, Any, None]]
"""Something a server goes through. It happens between two steps of the conversation that it is given."""


class Storm:
    """One soak over a running gateway."""

    def __init__(self, plan: Plan, gateway: RunningGateway, upstreams: dict[str, SoakUpstream], ledger: Ledger) -> None:
        self._plan = plan
        self._gateway = gateway
        self._upstreams = upstreams
        self._ledger = ledger
        self._dice = random.Random(plan.seed)
        self._steps = 0
        self._ends_at = 0.0
        self._troubles = self._all_troubles()
        self._principals = [
            Principal(f"p{number}", (token_of(number, 0), token_of(number, 1)), gateway.port)
            for number in range(plan.principals)
        ]
        self._conversations = [
            self._conversation(principal, number, index)
            for number, principal in enumerate(self._principals)
            for index in range(plan.conversations)
        ]
        self._operations = [
            _Operation(40, self._count),
            _Operation(8, self._burst),
            _Operation(8, self._steps_of_a_call),
            _Operation(6, self._ask, stateful=True),
            _Operation(6, self._push, stateful=True),
            _Operation(5, self._read),
            _Operation(2, self._subscribe, stateful=True),
            _Operation(4, self._list),
            _Operation(1, self._set_level),
            _Operation(5, self._cancel),
            _Operation(4, self._leave),
            _Operation(2, self._leave_when_asked, stateful=True),
            _Operation(3, self._listen),
            _Operation(3, self._end),
            _Operation(3, self._refresh),
            _Operation(2, self._try_sessions_of_others),
        ]

    def _conversation(self, principal: Principal, number: int, index: int) -> Conversation:
        """Each principal's first conversation is with all servers, the others with one."""
        if index == 0:
            return Conversation(principal, index, "/mcp", self._upstreams, self._ledger)
        name = [*self._upstreams][(number + index) % len(self._upstreams)]
        return Conversation(principal, index, f"/servers/{name}/mcp", {name: self._upstreams[name]}, self._ledger)

    async def run(self) -> None:
        """The storm, and the calm after it. What was found is in the ledger."""
        began_at = asyncio.get_running_loop().time()
        self._ends_at = began_at + (self._plan.seconds or 0.0)
        for upstream in self._upstreams.values():
            upstream.refusal_chance = self._plan.refusal_chance
        async with asyncio.TaskGroup() as group:
            for conversation in self._conversations:
                group.create_task(self._live(conversation))
        self._ledger.seconds = asyncio.get_running_loop().time() - began_at
        for upstream in self._upstreams.values():
            upstream.refusal_chance = 0.0
            upstream.revoked.clear()
        async with asyncio.TaskGroup() as group:
            for conversation in self._conversations:
                group.create_task(self._bounded(self._settle(conversation), conversation, "settling"))
        self._ledger.refusals = sum(upstream.refusals.total() for upstream in self._upstreams.values())
        await self._go()

    # The storm.

    async def _live(self, conversation: Conversation) -> None:
        await self._bounded(self._open(conversation), conversation, "opening")
        done = 0
        while self._goes_on(done):
            done += 1
            self._steps += 1
            if self._steps % self._plan.trouble_every == 0:
                await self._bounded(next(self._troubles)(conversation), conversation, "trouble")
            await self._step(conversation)

    def _goes_on(self, done: int) -> bool:
        if self._plan.steps is not None:
            return done < self._plan.steps
        return asyncio.get_running_loop().time() < self._ends_at

    async def _bounded(self, work: Awaitable[None], conversation: Conversation, what: str) -> None:
        try:
            async with asyncio.timeout(OPERATION_SECONDS):
                await work
        except TimeoutError:
            self._ledger.unexpected.append(f"{conversation.name}: {what} hangs")
        except GONE as error:
            self._ledger.unexpected.append(f"{conversation.name}: {what}: the gateway broke off: {error!r}")

    async def _step(self, conversation: Conversation) -> None:
        name = self._dice.choice([*conversation.upstreams])
        possible = [each for each in self._operations if self._upstreams[name].stateful or not each.stateful]
        (operation,) = self._dice.choices(possible, [each.weight for each in possible])
        await self._bounded(operation.run(conversation, name), conversation, f"{operation.run.__name__} at {name}")
        if conversation.shut_out:
            conversation.shut_out = False
            await asyncio.sleep(SHUT_OUT_SECONDS)

    def _all_troubles(self) -> Iterator[_Trouble]:
        """All sorts for each server, over and over."""
        while True:
            for upstream in self._upstreams.values():
                yield partial(self._revoke, upstream)
                yield partial(self._break, upstream, upstream.drop)
                yield partial(self._break, upstream, upstream.restart)
                if upstream.stateful:
                    yield partial(self._forget, upstream, "404")
                    yield partial(self._forget, upstream, "400")

    async def _revoke(self, upstream: SoakUpstream, witness: Conversation) -> None:
        """Refuse every second team for a while: the others must not feel it."""
        for index, principal in enumerate(self._principals):
            if index % 4 < 2:
                upstream.revoked[principal.name] = REVOKED_REQUESTS

    async def _break(self, upstream: SoakUpstream, how: Callable[[], Awaitable[None]], witness: Conversation) -> None:
        """Break the connections of a server, while a call of the witness runs in it."""
        if upstream.down:
            return
        self._ledger.breaks += 1
        if upstream.name not in witness.upstreams:
            await how()
            return
        call = witness.next_call()
        hold = upstream.hold(call, may_be_cancelled=False)
        calling = asyncio.create_task(witness.call(upstream.name, self._kind(), call, stream=False))
        try:
            await first_of(calling, hold.began)
            await how()
            await calling
        finally:
            upstream.release(call)
            calling.cancel()

    async def _forget(self, upstream: SoakUpstream, how: str, witness: Conversation) -> None:
        self._ledger.losses += 1
        upstream.forget(how)

    async def _open(self, conversation: Conversation) -> None:
        await again_until(conversation.open)

    async def _count(self, conversation: Conversation, name: str) -> None:
        await conversation.call(name, "count")

    async def _burst(self, conversation: Conversation, name: str) -> None:
        """Calls at the same time; in which order they run is not known."""
        names = [self._dice.choice([*conversation.upstreams]) for _ in range(BURST)]
        for each in names:
            conversation.unsure_of(each)
        await asyncio.gather(*(self._one_of_many(conversation, each) for each in names))

    @staticmethod
    async def _one_of_many(conversation: Conversation, name: str) -> None:
        await conversation.call(name, "count")
        conversation.unsure_of(name)

    async def _steps_of_a_call(self, conversation: Conversation, name: str) -> None:
        await conversation.call(name, "steps")

    async def _ask(self, conversation: Conversation, name: str) -> None:
        await conversation.call(name, "ask")

    async def _push(self, conversation: Conversation, name: str) -> None:
        await conversation.call(name, "push", aside=self._dice.random() < 0.5)

    async def _read(self, conversation: Conversation, name: str) -> None:
        await conversation.read(name)

    async def _subscribe(self, conversation: Conversation, name: str) -> None:
        await conversation.subscribe(name)

    async def _list(self, conversation: Conversation, name: str) -> None:
        for each in conversation.upstreams:
            conversation.unsure_of(each)
        await self._dice.choice([self._list_tools, self._list_resources])(conversation)

    @staticmethod
    async def _list_tools(conversation: Conversation) -> None:
        await conversation.list("tools/list", "tools", "description")

    @staticmethod
    async def _list_resources(conversation: Conversation) -> None:
        await conversation.list("resources/list", "resources", "name")

    async def _set_level(self, conversation: Conversation, name: str) -> None:
        for each in conversation.upstreams:
            conversation.unsure_of(each)
        await conversation.ask_for("logging/setLevel", {"level": self._dice.choice(["debug", "info"])})

    def _kind(self) -> str:
        """A tool whose calls last: one that must not run twice, or one that may."""
        return self._dice.choice(["hold", "wait"])

    async def _cancel(self, conversation: Conversation, name: str) -> None:
        """Take a call back once it runs. The server hears of it, or has lost the session."""
        self._ledger.cancels += 1
        call = conversation.next_call()
        hold = self._upstreams[name].hold(call, may_be_cancelled=True)
        conversation.cancels = True
        calling = asyncio.create_task(conversation.call(name, self._kind(), call, stream=self._dice.random() < 0.5))
        try:
            await first_of(calling, hold.began)
            if not calling.done():
                await conversation.notify("notifications/cancelled", {"requestId": id_of(call)})
                if self._upstreams[name].stateful:
                    await hold.over.wait()
            await calling
        finally:
            self._upstreams[name].release(call)
            calling.cancel()
        conversation.cancels = False

    async def _leave(self, conversation: Conversation, name: str) -> None:
        """Go away in the middle of a call: it goes on, and its answer goes nowhere."""
        self._ledger.disconnects += 1
        call = conversation.next_call()
        hold = self._upstreams[name].hold(call, may_be_cancelled=False)
        message, _ = conversation.call_message(name, self._kind(), call, stream=self._dice.random() < 0.5)
        calling = asyncio.create_task(conversation.start(message))
        try:
            await first_of(calling, hold.began)
            await leave(calling)
        finally:
            calling.cancel()
            self._upstreams[name].release(call)
            conversation.left(name, call)

    async def _leave_when_asked(self, conversation: Conversation, name: str) -> None:
        """Go away instead of answering a question."""
        self._ledger.disconnects += 1
        message, call = conversation.call_message(name, "ask")
        conversation.left(name, call)
        answer = await conversation.start(message)
        async with aclosing(answer.messages()) as messages:
            await anext(messages)
        answer.leave()

    async def _listen(self, conversation: Conversation, name: str) -> None:
        if conversation.listens and self._dice.random() < 0.5:
            await conversation.listen_no_more()
        else:
            await conversation.listen()

    async def _end(self, conversation: Conversation, name: str) -> None:
        """DELETE the session, at times with a call in flight, and begin another."""
        self._ledger.deletes += 1
        if self._dice.random() < 0.5:
            await self._end_with_a_call(conversation, name)
        else:
            await conversation.end()
        await again_until(conversation.begin_again)

    async def _end_with_a_call(self, conversation: Conversation, name: str) -> None:
        call = conversation.next_call()
        hold = self._upstreams[name].hold(call, may_be_cancelled=True)
        calling = asyncio.create_task(conversation.call(name, self._kind(), call, stream=self._dice.random() < 0.5))
        try:
            await first_of(calling, hold.began)
            await conversation.end()
            await calling
        finally:
            self._upstreams[name].release(call)
            calling.cancel()

    async def _refresh(self, conversation: Conversation, name: str) -> None:
        conversation.principal.refresh()

    async def _try_sessions_of_others(self, conversation: Conversation, name: str) -> None:
        await conversation.try_session_of(self._dice.choice(self._conversations))

    # The calm.

    async def _settle(self, conversation: Conversation) -> None:
        """After all that trouble every server serves everybody, and what is said outside calls arrives."""
        for name, upstream in conversation.upstreams.items():
            await again_until(partial(conversation.call, name, "count"))
            if upstream.per_conversation:
                await self._hear_news(conversation, name)

    async def _hear_news(self, conversation: Conversation, name: str) -> None:
        await again_until(partial(conversation.subscribe, name))
        await conversation.listen()
        conversation.updates.clear()
        # The gateway's own stream to the server opens a moment after the client's; then what is said aside is heard.
        await again_until(partial(self._says_news, conversation, name))
        await conversation.updates.wait()

    @staticmethod
    async def _says_news(conversation: Conversation, name: str) -> bool:
        tag = await conversation.call(name, "push", aside=True)
        return tag is not None and tag["heard"] > 0

    async def _go(self) -> None:
        """All leave: most say so, some vanish and are ended with the gateway."""
        vanished = self._conversations[::4]
        for conversation in self._conversations:
            if conversation not in vanished:
                await self._bounded(conversation.end(), conversation, "ending")
            await conversation.listen_no_more()
        for principal in self._principals:
            await principal.wire.aclose()
        names = {conversation.name for conversation in vanished}
        await self._in_the_end(lambda: self._left_behind(names))

    def _left_behind(self, vanished: set[str]) -> list[str]:
        """What is still there of those who have left. Those who vanished may have their sessions, but nobody listens."""
        names = {conversation.name for conversation in self._conversations} - vanished
        sessions = [session for upstream in self._upstreams.values() for session in upstream.left_over]
        left = [f"{session.id} of {session.opener}" for session in sessions if session.opener in names and session.bound]
        left += [f"a listener to {session.id}" for session in sessions if session.listeners and "." in session.opener]
        if (number := len(self._gateway.gateway.sessions)) != len(vanished):
            left.append(f"{number} client sessions instead of {len(vanished)}")
        figures = self._gateway.gateway.pool.get_metrics()
        return left + [f"the pool still says {name} {figures[name]}" for name in AT_REST if figures[name]]

    async def _in_the_end(self, left: Callable[[], list[str]]) -> None:
        """What is `left` goes away by itself; what does not is a leak."""
        try:
            await until(lambda: not left(), SETTLE_SECONDS)
        except TimeoutError:
            self._ledger.leaks += left()


async def again_until(attempt: Callable[[], Awaitable[object]]) -> None:
    """Try until it succeeds, with pauses, as clients do."""
    while not await attempt():
        await asyncio.sleep(SHUT_OUT_SECONDS)


async def first_of(task: asyncio.Task[Any], event: asyncio.Event) -> None:
    """Wait until one of them is there."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def leave(calling: asyncio.Task[Answer]) -> None:
    """Break off a request, whether its answer has begun or not."""
    if not calling.done():
        calling.cancel()
        await asyncio.wait([calling])
    if not calling.cancelled() and calling.exception() is None:
        calling.result().leave()


def id_of(call: str) -> int:
    return int(call.rpartition("#")[2])


def token_of(principal: int, number: int) -> str:
    return f"token-{number}-of-p{principal}"


def document(plan: Plan, upstreams: dict[str, SoakUpstream]) -> Message:
    """The gateway's configuration. What two of the servers are shown is configured, the third gets the client's own header."""
    names = [f"p{number}" for number in range(plan.principals)]
    credentials = {name: {"headers": {"X-Api-Key": key_of(name)}} for name in names}
    shown = {"bound": {"credentials": credentials}, "principal": {"credentials": credentials}}
    forwarded = {"forward_headers": ["x-api-key"]}
    sharing = {"bound": "bound", "principal": "principal", "nameless": "auto"}
    servers = {
        name: {"url": upstream.url, "type": "http", "sessions": sharing[name], **shown.get(name, forwarded)}
        for name, upstream in upstreams.items()
    }
    tokens = {name: [_hash(number, 0), _hash(number, 1)] for number, name in enumerate(names)}
    return {"mcpServers": servers, "gateway": {"auth": {"tokens": tokens}}}


def _hash(principal: int, number: int) -> str:
    return "sha256:" + sha256(token_of(principal, number).encode()).hexdigest()


async def soak(plan: Plan) -> Ledger:
    """Run the plan on a gateway and three servers of its own. What it found."""
    ledger = Ledger()
    with _logged_faults(ledger):
        tasks, sockets = asyncio.all_tasks(), open_sockets()
        async with running(plan, ledger) as upstreams:
            async with serving(document(plan, upstreams)) as gateway:
                await Storm(plan, gateway, upstreams, ledger).run()
                pool = gateway.gateway.pool
            ledger.leaks += [f"{session!r} was not ended" for each in upstreams.values() for session in each.left_over]
            ledger.leaks += [
                f"the closed pool has {name} {pool.get_metrics()[name]}" for name in GAUGES if pool.get_metrics()[name]
            ]
        await _end_all(tasks, sockets, ledger)
    return ledger


@asynccontextmanager
async def running(plan: Plan, ledger: Ledger) -> AsyncIterator[dict[str, SoakUpstream]]:
    """Three servers: one session per conversation, one per principal, none."""
    dice = random.Random(plan.seed + 1)
    upstreams = {
        "bound": SoakUpstream("bound", ledger.crossings, dice, per_conversation=True),
        "principal": SoakUpstream("principal", ledger.crossings, dice),
        "nameless": SoakUpstream("nameless", ledger.crossings, dice, stateful=False),
    }
    for upstream in upstreams.values():
        upstream.start()
    try:
        yield upstreams
    finally:
        for upstream in upstreams.values():
            await upstream.stop()


@contextmanager
def _logged_faults(ledger: Ledger) -> Iterator[None]:
    faults = Faults(ledger)
    logging.getLogger().addHandler(faults)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(faults)


def open_sockets() -> int:
    """How many sockets this process has open."""
    return sum(_is_socket(int(name)) for name in os.listdir(DESCRIPTORS))


def _is_socket(descriptor: int) -> bool:
    # The listing itself was a descriptor, which is closed by now.
    with suppress(OSError):
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    return False


async def _end_all(tasks: set[asyncio.Task[Any]], sockets: int, ledger: Ledger) -> None:
    """Tasks and sockets end by themselves; those that do not are leaks."""
    try:
        await until(lambda: asyncio.all_tasks() <= tasks and open_sockets() <= sockets, SETTLE_SECONDS)
    except TimeoutError:
        ledger.leaks += [repr(task) for task in asyncio.all_tasks() - tasks]
        if open_sockets() > sockets:
            ledger.leaks.append(f"{open_sockets() - sockets} sockets")
