"""Calls whose server asks something, while the client is away to find the answer: they run on, and wait for its next request.

Modern clients are not asked while a request runs. They are answered with the questions, and send the request again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw

from mcpgateway import runtime
from mcpgateway.downstream.questions import Capabilities, Question, carried, lacking
from mcpgateway.errors import InvalidParams, RpcError
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import Call, Channel, cannot_ask
from mcpgateway.protocol.jsonrpc import Params
from mcpgateway.protocol.modern import ASKABLE
from mcpgateway.runtime import Sweep

PARKED_SECONDS = 600.0
"""How long a client may take for its answer."""

GRACE_SECONDS = 5.0
"""How long a call may go on after its questions were refused because nobody came."""

SETTLE_SECONDS = 0.03
"""How long it must have been quiet after a question before the client is asked: each round costs it a request."""

PARKED_PER_USER = 256
PARKED = 4096

Outcome = bytes | Exception
"""How a call ended: its raw result, or why there is none."""


class Interaction:
    """One call that runs in a task of its own, and its open questions. A `Channel`.

    Between rounds no request waits for it, and what the server says meanwhile is lost.
    """

    def __init__(self, call: Call, capabilities: bytes) -> None:
        self.id = ""
        """Unguessable, once the call has a name."""
        self.call = call
        self._teller: Channel | None = None
        self._token: Raw | None = None
        self.lacked: Capabilities | None = None
        """What the client would have had to declare for a question that was refused."""
        self.deadline = 0.0
        self.on_expiry: Callable[[], None] = self.give_up
        self._capabilities = capabilities
        self._open: dict[str, tuple[Question, asyncio.Future[bytes]]] = {}
        self._asked = 0
        self._news = asyncio.Event()
        self._given_up = False
        self._task: asyncio.Task[Outcome] | None = None

    def __repr__(self) -> str:
        return f"<Interaction {self.call.method}, {len(self._open)} questions open>"

    def named(self) -> str:
        """The call's id, the same from now on."""
        self.id = self.id or secrets.token_urlsafe(16)
        return self.id

    def start(self, work: Coroutine[Any, Any, Outcome]) -> None:
        """Begin the call."""
        self._task = runtime.spawn(work, "a call that may ask")
        self._task.add_done_callback(lambda done: self._news.set())

    def when_over(self, tell: Callable[[], None]) -> None:
        """Call `tell` soon after the call is over."""
        if self._task is not None:
            self._task.add_done_callback(lambda done: tell())

    @property
    def over(self) -> bool:
        return self._task is not None and self._task.done()

    @property
    def outcome(self) -> Outcome:
        """How the call ended, once it has."""
        if self._task is None:
            raise RuntimeError("the call has not begun")
        return RpcError.of(-32603, "the call was given up") if self._task.cancelled() else self._task.result()

    def attach(self, teller: Channel, token: Raw | None) -> None:
        """A request waits for the call now, which is told of progress under `token`, if at all."""
        self._teller = teller
        self._token = token

    def detach(self) -> None:
        """It waits no more."""
        self._teller = None

    def notify(self, method: str, params: bytes) -> None:
        if self._teller is None:
            return
        if method == "notifications/progress":
            # The token that the server was given is that of the first request, which is over.
            if self._token is None:
                return
            params = msgspec.json.encode(jsonrpc.object_of(params) | {"progressToken": self._token})
        self._teller.notify(method, params)

    async def ask(self, method: str, params: bytes) -> bytes:
        """Wait for the client's answer. Raises RpcError where it cannot be asked, or does not come."""
        question = Question(method, params)
        lacked = lacking(self._capabilities, question)
        if self._given_up or lacked is not None:
            self.lacked = lacked
            raise cannot_ask(method)
        self._asked += 1
        key = f"{ASKABLE[method]}-{self._asked}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._open[key] = question, answer
        self._news.set()
        try:
            return await answer
        finally:
            self._open.pop(key, None)

    async def round(self) -> bool:
        """Wait until the call is over, True, or asks its client, False."""
        while not self.over and not self._open:
            self._news.clear()
            await self._news.wait()
            await self._all_asked()
        return self.over

    async def _all_asked(self) -> None:
        """Wait for what is asked together, which need not come together."""
        asked = -1
        while self._asked > asked and not self.over:
            asked = self._asked
            await asyncio.sleep(SETTLE_SECONDS)

    def questions(self) -> dict[str, Raw]:
        """What the client is asked now, by key."""
        return {key: carried(question) for key, (question, _) in self._open.items()}

    def take(self, answers: Params) -> None:
        """Hand the client's answers to those who wait for them. What was not asked, or no longer, is left."""
        for key in self._open.keys() & answers.keys():
            _, answer = self._open.pop(key)
            if not answer.done():
                answer.set_result(bytes(answers[key]))

    def expire(self) -> None:
        self.on_expiry()

    def give_up(self) -> None:
        """Refuse what is asked, and what will be."""
        self._given_up = True
        for _, answer in self._open.values():
            if not answer.done():
                answer.set_exception(RpcError.of(-32603, "the client did not come back with an answer"))

    def end(self) -> None:
        """Nobody waits for the call any more."""
        self._given_up = True
        if self._task is not None:
            self._task.cancel()


class Parked:
    """The calls that wait for their client, the oldest first; each found by whom it belongs to only.

    Where one principal has too many, or all together, the oldest of those with the most is given up.
    """

    def __init__(
        self, sweep: Sweep, seconds: float = PARKED_SECONDS, per_user: int = PARKED_PER_USER, limit: int = PARKED
    ) -> None:
        self._sweep = sweep
        self._seconds = seconds
        self._per_user = per_user
        self._limit = limit
        self._calls: OrderedDict[tuple[str, str], Interaction] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._ending: set[Interaction] = set()

    def __repr__(self) -> str:
        return f"<Parked {len(self._calls)} calls of {len(self._counts)} principals>"

    def __len__(self) -> int:
        """How many calls wait, or are coming to their end."""
        return len(self._calls) + sum(not each.over for each in self._ending)

    def park(self, interaction: Interaction, user: str) -> None:
        """Keep a call until its client comes again, or does not."""
        if self._counts[user] >= self._per_user:
            self._give_up_oldest(user)
        elif len(self._calls) >= self._limit:
            self._give_up_oldest(self._counts.most_common(1)[0][0])
        self._counts[user] += 1
        self._calls[user, interaction.named()] = interaction
        interaction.detach()
        interaction.deadline = self._sweep.now() + self._seconds
        interaction.on_expiry = partial(self._give_up, (user, interaction.id))
        self._sweep.watch(interaction)

    def claim(self, id: str, user: str) -> Interaction:
        """The call of this id, whose client is here again. Raises InvalidParams where it waits no more."""
        interaction = self._take((user, id))
        if interaction is None:
            raise InvalidParams(
                "params.requestState: state expired; the call that it is for waits no more: send the request anew, without it"
            )
        return interaction

    def close(self) -> None:
        """Give up all calls at once."""
        for key in list(self._calls):
            interaction = self._take(key)
            if interaction is not None:
                interaction.give_up()
                interaction.end()
        for interaction in self._ending:
            self._sweep.forget(interaction)
            interaction.end()

    def _take(self, key: tuple[str, str]) -> Interaction | None:
        interaction = self._calls.pop(key, None)
        if interaction is not None:
            self._sweep.forget(interaction)
            self._counts[key[0]] -= 1
            if not self._counts[key[0]]:
                del self._counts[key[0]]
        return interaction

    def _give_up_oldest(self, user: str) -> None:
        self._give_up(next(key for key in self._calls if key[0] == user))

    def _give_up(self, key: tuple[str, str]) -> None:
        """Answer the server's questions with a refusal. It may then end the call by itself; a little later we do."""
        interaction = self._take(key)
        if interaction is not None:
            interaction.give_up()
            interaction.deadline = self._sweep.now() + GRACE_SECONDS
            interaction.on_expiry = interaction.end
            self._sweep.watch(interaction)
            self._ending.add(interaction)
            interaction.when_over(partial(self._ended, interaction))

    def _ended(self, interaction: Interaction) -> None:
        """A call that was given up has come to its end: nothing holds it any more."""
        self._ending.discard(interaction)
        self._sweep.forget(interaction)
