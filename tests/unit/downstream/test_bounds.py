"""What is kept for clients has an end, whatever clients and servers do."""

from __future__ import annotations

import asyncio
import json

import pytest
from msgspec import Raw

from mcpgateway import runtime
from mcpgateway.auth.principals import Principal
from mcpgateway.downstream import envelope
from mcpgateway.downstream.callers import Callers
from mcpgateway.downstream.conversing import described
from mcpgateway.downstream.described import MAX_DESCRIPTION_BYTES
from mcpgateway.downstream.envelope import Envelope
from mcpgateway.downstream.event_store import EventStore
from mcpgateway.downstream.event_stream import QUEUED_BYTES, QUEUED_EVENTS, EventStream
from mcpgateway.downstream.listen import Subscription
from mcpgateway.downstream.parked import Interaction, Outcome, Parked
from mcpgateway.downstream.rounds import Rounds
from mcpgateway.downstream.sealed import Sealer
from mcpgateway.downstream.sessions import UNHEARD_BYTES, ClientSession
from mcpgateway.errors import InvalidParams, RpcError
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.modern import CAPABILITIES_META, CLIENT_INFO_META, UPDATED, VERSION_META
from mcpgateway.runtime import Sweep
from mcpgateway.services.views import View
from tests.fakes.clock import FakeClock
from tests.fakes.peers import tool_call
from tests.fakes.until import until
from tests.unit.downstream.asgi import Exchange

ALICE, BOB = Principal("static", "alice"), Principal("static", "bob")
LARGE = {"name": "x" * MAX_DESCRIPTION_BYTES}
NOTE = ("up", "note://1")


@pytest.fixture
async def sweep(clock: FakeClock) -> Sweep:
    return Sweep(clock)


def request(capabilities: object = None, info: object = None, arguments: bytes = b"{}") -> Envelope:
    meta = {VERSION_META: "2026-07-28", CAPABILITIES_META: capabilities or {}, CLIENT_INFO_META: info or {}}
    params = b'{"_meta":%b,"name":"t","arguments":%b}' % (json.dumps(meta).encode(), arguments)
    headers = [(b"mcp-protocol-version", b"2026-07-28"), (b"mcp-method", b"tools/call"), (b"mcp-name", b"t")]
    return envelope.read(envelope.decode(jsonrpc.request_raw(1, "tools/call", params), 64), headers)


def session(sweep: Sweep) -> ClientSession:
    return ClientSession(ALICE, View({}, single=False), "2025-11-25", b"{}", b"{}", sweep)


async def one_question(interaction: Interaction) -> Outcome:
    try:
        return await interaction.ask("elicitation/create", b'{"message":"?"}')
    except RpcError as error:
        return error


async def asking() -> Interaction:
    """A call that has a question open."""
    interaction = Interaction(tool_call("t"), b'{"elicitation":{}}')
    interaction.start(one_question(interaction))
    async with asyncio.timeout(5):
        assert not await interaction.round()
    return interaction


async def test_p16_a_call_that_was_given_up_and_is_over_is_kept_by_nobody(sweep: Sweep) -> None:
    parked = Parked(sweep, per_user=1)
    first, second = await asking(), await asking()
    parked.park(first, "alice")
    parked.park(second, "alice")
    await until(lambda: first.over and not parked._ending)
    assert len(parked) == 1 and len(sweep) == 1
    parked.close()
    await until(lambda: runtime.running_tasks() == [])


@pytest.mark.parametrize(("capabilities", "info"), [(LARGE, {}), ({}, LARGE)])
def test_p16_modern_clients_say_no_more_of_themselves_than_can_be_kept(capabilities: object, info: object) -> None:
    with pytest.raises(InvalidParams, match="larger than"):
        request(capabilities, info)


@pytest.mark.parametrize("field", ["capabilities", "clientInfo"])
def test_p16_clients_with_a_session_say_no_more_of_themselves_than_can_be_kept(field: str) -> None:
    params = jsonrpc.raw({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}} | {field: LARGE})
    with pytest.raises(InvalidParams, match=f"{field} is larger than"):
        described(jsonrpc.decode(jsonrpc.request_raw(1, "initialize", bytes(params))))


async def test_p16_one_principal_with_many_callers_pushes_out_nobody_but_its_own(sweep: Sweep) -> None:
    callers, view = Callers(sweep, limit=3), View({}, single=False)
    bob = callers.of(BOB, view, request())
    alice = [callers.of(ALICE, view, request({"experimental": {str(number): {}}})) for number in range(10)]
    assert callers.of(BOB, view, request()) is bob and len(callers) == 3
    assert callers.all() == [*alice[-2:], bob] and "3 of 2 principals" in repr(callers)


async def test_p16_one_old_event_does_not_hold_what_came_and_went_after_it(sweep: Sweep) -> None:
    store = EventStore(sweep)
    store.open(session(sweep)).put(b"stays")
    for _ in range(1000):
        stream = store.open(session(sweep))
        stream.put(b"goes")
        stream.forget()
    assert len(store) == 1 and len(store._all._events) <= 2
    sweep.close()


@pytest.mark.parametrize(("size", "count"), [(1, QUEUED_EVENTS), (QUEUED_BYTES // 4, 4)])
async def test_p16_what_is_said_before_a_stream_begins_is_held_within_bounds(size: int, count: int, sweep: Sweep) -> None:
    subscription = Subscription(request(), ())
    subscription.resources[NOTE] = "note://1"
    for number in range(count + 10):
        subscription.updated(NOTE, {"number": jsonrpc.raw(number), "text": jsonrpc.raw("x" * size)})
    assert len(subscription._held) == count and UPDATED.encode() in subscription._held[0]
    exchange = Exchange()
    stream = EventStream(exchange.asgi(), sweep)
    subscription.begin(stream, frozenset())
    heard = await exchange.until_messages(3)
    assert [message["params"].get("number") for message in heard[:3]] == [None, 0, 1]
    await stream.cut()
    sweep.close()


async def test_p16_what_is_said_to_a_client_that_does_not_listen_is_kept_within_bounds(sweep: Sweep) -> None:
    alice = session(sweep)
    for number in range(10):
        alice.push("notifications/message", b'{"data":%d,"text":"%b"}' % (number, b"x" * (UNHEARD_BYTES // 4)))
    assert sum(map(len, alice._unheard)) <= UNHEARD_BYTES
    alice.push("notifications/message", b'{"data":10}')
    exchange = Exchange()
    stream = EventStream(exchange.asgi(), sweep)
    stream.start()
    alice.attach(stream)
    assert [message["params"]["data"] for message in await exchange.until_messages(4)] == [7, 8, 9, 10]
    await stream.cut()
    sweep.close()


async def test_a_call_with_a_number_that_only_others_can_read_is_asked_and_goes_on(sweep: Sweep) -> None:
    rounds = Rounds(Sealer(sweep), Parked(sweep))
    asked, interaction = request(arguments=b'{"x":1e999}'), await asking()
    fields = jsonrpc.object_of(rounds.ask(asked, "alice", interaction))
    again = request(arguments=b'{"x":1e999}')
    again.state = jsonrpc.string_of(fields, "requestState")
    other = request(arguments=b'{"x":2e999}')
    other.state = again.state
    with pytest.raises(InvalidParams, match="another request"):
        rounds.resume(other, "alice")
    again.params = again.params | {"inputResponses": Raw(b'{"elicitation-1":{"action":"accept"}}')}
    assert rounds.resume(again, "alice") is interaction
    await until(lambda: interaction.over)
    assert interaction.outcome == b'{"action":"accept"}'


async def test_a_call_whose_client_cannot_be_told_of_it_is_not_parked(sweep: Sweep) -> None:
    parked, interaction = Parked(sweep), await asking()
    unsayable = request()
    unsayable.method = "\ud800"
    with pytest.raises(UnicodeEncodeError):
        Rounds(Sealer(sweep), parked).ask(unsayable, "alice", interaction)
    assert len(parked) == 0
    interaction.end()
    await until(lambda: interaction.over)
