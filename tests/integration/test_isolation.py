"""Nobody meets another's session, state, credential, notification or cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.clients.wire import Message, Wire
from tests.fakes.callers import bearer, letting_in, token_of
from tests.fakes.gateway import RunningGateway, serving
from tests.servers.http11 import Request
from tests.servers.raw_stub import Stub
from tests.servers.waiting_stub import WaitingStub

AUTH = letting_in("alice", "bob")


class Offering(WaitingStub):
    """A stub that offers one of everything, its tools named after who asks, and a tool that waits."""

    async def _result(self, request: Request, message: Message) -> str | None:
        params = message.get("params", {})
        match message["method"]:
            case "initialize":
                offered: Message = {
                    "tools": {},
                    "resources": {"subscribe": True},
                    "prompts": {},
                    "completions": {},
                    "logging": {},
                }
                info = {"name": "offering", "version": "1"}
                return json.dumps({"protocolVersion": params["protocolVersion"], "capabilities": offered, "serverInfo": info})
            case "tools/list":
                own = request.headers.get("x-user", "nobody")
                names = [f"of_{own}", "counter", "whoami", "wait"]
                return json.dumps({"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]})
            case "resources/list":
                return json.dumps({"resources": [{"uri": "note://1", "name": "one"}]})
            case "resources/templates/list":
                return json.dumps({"resourceTemplates": [{"uriTemplate": "note://{n}", "name": "any"}]})
            case "prompts/list":
                return json.dumps({"prompts": [{"name": "greet"}]})
            case "resources/read":
                return json.dumps({"contents": [{"uri": params["uri"], "text": "note"}]})
            case "prompts/get":
                return json.dumps({"messages": []})
            case "completion/complete":
                return json.dumps({"completion": {"values": []}})
            case "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel":
                return "{}"
        return await super()._result(request, message)

    @property
    def calling_sessions(self) -> list[str]:
        """The session of each tool call, in order."""
        return [entry["session"] for entry in self.of("tools/call")]


@pytest.fixture
async def stub() -> AsyncIterator[Offering]:
    async with Offering() as server:
        yield server


def one(stub: Stub, *, gateway: Message | None = None, **server: Any) -> dict[str, Any]:
    return {"mcpServers": {"up": {"url": stub.url, **server}}, "gateway": AUTH | (gateway or {})}


@contextlib.asynccontextmanager
async def client_of(url: str, name: str, **headers: str) -> AsyncIterator[Wire]:
    async with Wire(url, bearer(name) | headers) as wire:
        await wire.initialize()
        assert wire.session is not None, wire
        yield wire


@contextlib.asynccontextmanager
async def clients(gateway: RunningGateway, *names: str) -> AsyncIterator[list[Wire]]:
    """A client with a session of its own for each of these names."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client_of(gateway.url, name)) for name in names]


async def count(wire: Wire, tool: str = "up__counter") -> tuple[int, str]:
    """One count more: which, and in which upstream session."""
    said = json.loads((await wire.call(tool))["result"]["content"][0]["text"])
    return said["count"], said["session"]


async def test_i2_counters_of_two_principals_and_two_conversations_never_mix(stub: Offering) -> None:
    async with serving(one(stub)) as gateway, clients(gateway, "alice", "alice", "bob") as (a, b, c), asyncio.timeout(20):
        for wire in (a, b, c):
            assert (await count(wire))[0] == 1
        opened = stub.seen.initializes
        began = len(stub.seen.requests)
        rounds = [wire for _ in range(20) for wire in (a, b, c)]
        counted = await asyncio.gather(*(count(wire) for wire in rounds))
        for position in range(3):
            own = counted[position::3]
            assert sorted(number for number, _ in own) == list(range(2, 22))
            assert len({session for _, session in own}) == 1
        assert len({session for _, session in counted}) == 3
        await asyncio.gather(*(count(wire) for wire in (a, a, b)))
        assert [(await count(wire))[0] for wire in (a, b, c)] == [24, 23, 22]
        # After warm-up: one request upstream for each call, and not one more.
        assert [entry["rpc"] for entry in stub.seen.requests[began:]] == ["tools/call"] * 66
        assert stub.seen.initializes == opened


async def test_i2_five_and_three_calls_of_two_conversations_read_five_and_three(stub: Offering) -> None:
    async with serving(one(stub)) as gateway, asyncio.timeout(20):
        async with client_of(gateway.url, "alice") as a, client_of(gateway.url, "alice") as b:
            order = [a, b, a, a, b, a, b, a]
            counted = {wire: await count(wire) for wire in order}
        assert (counted[a][0], counted[b][0]) == (5, 3)
        assert len(set(stub.calling_sessions)) == 2


async def test_i1_one_shared_upstream_credential_does_not_join_two_principals(stub: Offering) -> None:
    document = one(stub, headers={"X-Api-Key": "shared"}, sessions="principal")
    async with serving(document) as gateway, clients(gateway, "alice", "bob") as (alice, bob), asyncio.timeout(20):
        assert [(await count(wire))[0] for wire in (alice, bob, alice)] == [1, 1, 2]
        call = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "up__wait"}}
        calls = [asyncio.create_task(wire.post(call)) for wire in (alice, bob)]
        await gateway.until(lambda: stub.seen.running == 2)
        await bob.notify("notifications/cancelled", {"requestId": 5})
        assert (await calls[1]).message["error"]["code"] == -32800
        await gateway.until(lambda: len(stub.of("notifications/cancelled")) == 1)
        stub.release.set()
        assert "result" in (await calls[0]).message
        assert stub.of("notifications/cancelled")[0]["session"] == (await count(bob))[1]


@pytest.mark.parametrize("sessions", ["auto", "bound", "principal", "shared", "single_use"])
async def test_i3_somebody_elses_session_is_as_unknown_as_one_that_never_was(sessions: str, stub: Offering) -> None:
    async with serving(one(stub, sessions=sessions)) as gateway, client_of(gateway.url, "alice") as alice:
        await count(alice)
        async with client_of(gateway.url, "bob") as bob, asyncio.timeout(20):
            answers = []
            for id in (alice.session, "0" * 32):
                bob.session = id
                posted = await bob.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "up__counter"}})
                with pytest.raises(httpx.HTTPStatusError) as refused:
                    async with bob.listen():
                        pass
                notified = await bob.notify("notifications/cancelled", {"requestId": 1})
                statuses = (posted.status, refused.value.response.status_code, notified.status, await bob.delete())
                answers.append((statuses, posted.body.replace(str(id).encode(), b"")))
        assert answers[0] == answers[1] and answers[0][0] == (404, 404, 404, 404)
        assert len(stub.calling_sessions) == 1
        assert "result" in await alice.call("up__counter")


async def test_i3_a_session_needs_its_token_every_time(stub: Offering) -> None:
    async with serving(one(stub)) as gateway, client_of(gateway.url, "alice") as alice, asyncio.timeout(20):
        for header in (None, "Bearer wrong", f"Basic {token_of('alice')}"):
            reply = await alice.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, {"authorization": header})
            assert reply.status == 401 and reply.headers["www-authenticate"].startswith("Bearer")
            assert await alice.delete({"authorization": header}) == 401


async def test_i11_what_one_is_told_no_other_hears(stub: Offering) -> None:
    async with serving(one(stub)) as gateway, clients(gateway, "alice", "bob") as (alice, bob), asyncio.timeout(20):
        sessions = [(await count(wire))[1] for wire in (alice, bob)]
        async with alice.listen() as to_alice, bob.listen() as to_bob:
            await gateway.until(lambda: set(sessions) <= set(stub._streams.values()))
            for name, session in zip(("alice", "bob"), sessions, strict=True):
                said = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": name}}
                stub.do({"notify": said, "session": session})
            assert (await anext(to_alice))["params"]["data"] == "alice"
            assert (await anext(to_bob))["params"]["data"] == "bob"


async def test_i4_forwarded_headers_count_in_any_letter_case(stub: Offering) -> None:
    document = one(stub, forward_headers=["X-USER"], sessions="principal")
    async with serving(document) as gateway, client_of(gateway.url, "alice") as wire, asyncio.timeout(20):
        counted = [await count_as(wire, name, user) for name, user in SPELLINGS]
    assert counted == [1, 2, 1, 3, 2]
    assert [entry["headers"]["x-user"] for entry in stub.of("tools/call")] == [user for _, user in SPELLINGS]


SPELLINGS = [("X-User", "ann"), ("x-user", "ann"), ("X-USER", "ben"), ("x-User", "ann"), ("X-user", "ben")]


async def count_as(wire: Wire, header: str, user: str) -> int:
    reply = await wire.call("up__counter", headers={header: user})
    return int(json.loads(reply["result"]["content"][0]["text"])["count"])


async def test_i9_each_call_carries_its_own_headers(stub: Offering) -> None:
    document = one(stub, forward_headers=["X-Request"], headers={"X-Fixed": "yes"})
    async with serving(document) as gateway, client_of(gateway.url, "alice") as wire, asyncio.timeout(20):
        wanted = [str(number) for number in range(10)]
        await asyncio.gather(*(wire.call("up__whoami", headers={"x-request": each}) for each in wanted))
        await wire.call("up__whoami")
    sent = [entry["headers"] for entry in stub.of("tools/call")]
    assert sorted(headers.get("x-request", "none") for headers in sent) == [*wanted, "none"]
    assert {headers["x-fixed"] for headers in sent} == {"yes"}


@pytest.mark.parametrize("own", [{}, {"Authorization": "Bearer the-gateways-own-0123"}])
async def test_a_clients_own_token_never_goes_upstream(own: dict[str, str], stub: Offering) -> None:
    async with serving(one(stub, headers=own)) as gateway, client_of(gateway.url, "alice") as wire, asyncio.timeout(20):
        await everything(wire)
        await wire.delete()
        await gateway.until(lambda: len(stub.seen.deletes) == 1)
    assert token_of("alice") not in json.dumps([entry["headers"] for entry in stub.seen.requests])
    assert {entry["headers"].get("authorization") for entry in stub.seen.requests} == {own.get("Authorization")}


async def everything(wire: Wire, headers: dict[str, str] | None = None) -> None:
    """One request of every kind."""
    greet = {"type": "ref/prompt", "name": "up__greet"}
    asked: list[tuple[str, Message]] = [
        ("tools/list", {}),
        ("resources/list", {}),
        ("resources/templates/list", {}),
        ("prompts/list", {}),
        ("tools/call", {"name": "up__whoami", "arguments": {}}),
        ("resources/read", {"uri": "note://1"}),
        ("resources/read", {"uri": "note://2"}),
        ("resources/subscribe", {"uri": "note://1"}),
        ("resources/unsubscribe", {"uri": "note://1"}),
        ("prompts/get", {"name": "up__greet"}),
        ("completion/complete", {"ref": greet, "argument": {"name": "a", "value": ""}}),
        ("logging/setLevel", {"level": "info"}),
    ]
    for method, params in asked:
        response = await wire.request(method, params, headers)
        assert "result" in response, (method, response)


async def test_i7_everything_a_client_asks_carries_the_same_caller_and_credential(stub: Offering) -> None:
    document = one(stub, forward_headers=["x-user"], headers={"X-Api-Key": "k"})
    async with serving(document) as gateway, client_of(gateway.url, "alice") as wire, asyncio.timeout(20):
        before = len(stub.seen.requests)
        await everything(wire, {"x-user": "ann"})
        asked = stub.seen.requests[before:]
    kinds = {entry["rpc"] for entry in asked}
    assert {"tools/call", "resources/read", "resources/subscribe", "prompts/get", "completion/complete", "tools/list"} <= kinds
    told = [entry for entry in asked if entry["http"] == "POST" and entry["rpc"] != "logging/setLevel"]
    assert {(entry["headers"].get("x-user"), entry["headers"].get("x-api-key")) for entry in told} == {("ann", "k")}
    assert len({entry["session"] for entry in told if entry["rpc"] not in ("initialize",)}) == 1


async def test_a_server_that_lists_by_who_asks_is_listed_for_each_as_it_lists(stub: Offering) -> None:
    async with serving(one(stub, forward_headers=["x-user"])) as gateway, asyncio.timeout(20):
        for name, user in (("alice", "ann"), ("bob", "ben"), ("alice", "ann")):
            async with client_of(gateway.url, name, **{"X-User": user}) as wire:
                listed = [each["name"] for each in (await wire.request("tools/list"))["result"]["tools"]]
                assert listed[0] == f"up__of_{user}"


async def test_i8_two_upstreams_with_one_url_do_not_hear_each_others_notifications(stub: Offering) -> None:
    document = {"mcpServers": {"a": {"url": stub.url}, "b": {"url": stub.url}}, "gateway": AUTH}
    async with serving(document) as gateway, client_of(gateway.server("a"), "alice") as to_a, asyncio.timeout(20):
        assert to_a.welcome["serverInfo"]["name"] == "offering"
        async with client_of(gateway.server("b"), "alice") as to_b:
            of_a, of_b = [(await count(wire, "counter"))[1] for wire in (to_a, to_b)]
            assert of_a != of_b
            lists = [len(stub.of("tools/list"))]
            async with to_a.listen() as from_a, to_b.listen() as from_b:
                await gateway.until(lambda: {of_a, of_b} <= set(stub._streams.values()))
                stub.do({"notify": {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}, "session": of_a})
                assert (await anext(from_a))["method"] == "notifications/tools/list_changed"
                said = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "b"}}
                stub.do({"notify": said, "session": of_b})
                assert await anext(from_b) == said
            await to_b.request("tools/list")
            assert len(stub.of("tools/list")) == lists[0]
            await to_a.request("tools/list")
            assert len(stub.of("tools/list")) == lists[0] + 1


SHARING = {"auto": 3, "bound": 3, "principal": 2, "shared": 2, "single_use": 5}
"""Upstream sessions for five calls, one after the other, by two conversations of alice's and one of bob's."""


@pytest.mark.parametrize(("sessions", "expected"), SHARING.items())
async def test_each_policy_shares_as_it_says(sessions: str, expected: int, stub: Offering) -> None:
    async with serving(one(stub, sessions=sessions)) as gateway, asyncio.timeout(20):
        used = await sessions_of_five_calls(gateway, stub)
    assert len(set(used)) == expected
    assert not set(used[:4]) & set(used[4:])


async def test_a_server_without_sessions_is_called_without_one(stub: Offering) -> None:
    stub.orders.stateful = False
    async with serving(one(stub)) as gateway, asyncio.timeout(20):
        assert set(await sessions_of_five_calls(gateway, stub)) == {None}
        assert gateway.gateway.upstreams["up"].policy == "stateless"


async def sessions_of_five_calls(gateway: RunningGateway, stub: Offering) -> list[str]:
    """The upstream session of each: two of alice's conversation, two of another of hers, one of bob's."""
    async with client_of(gateway.url, "alice") as a, client_of(gateway.url, "alice") as b, client_of(gateway.url, "bob") as c:
        for wire in (a, b, a, b, c):
            assert "result" in await wire.call("up__counter")
    return stub.calling_sessions


async def test_shared_sessions_are_lent_to_one_call_each_and_never_to_another_principal(stub: Offering) -> None:
    document = one(stub, sessions="shared", gateway={"session_pool": {"max_sessions_per_key": 3}})
    async with serving(document) as gateway, clients(gateway, "alice", "bob") as (alice, bob), asyncio.timeout(20):
        calls = [asyncio.create_task(wire.call("up__wait")) for wire in (alice, bob) for _ in range(5)]
        await gateway.until(lambda: stub.seen.running == 6)
        assert len(set(stub.calling_sessions)) == 6
        stub.release.set()
        assert all("result" in answer for answer in await asyncio.gather(*calls))
        assert len(set(stub.calling_sessions)) == 6


async def test_a_session_that_ended_is_never_handed_on(stub: Offering) -> None:
    async with serving(one(stub)) as gateway, asyncio.timeout(20):
        for expected in range(1, 4):
            async with client_of(gateway.url, "alice") as wire:
                assert (await count(wire))[0] == 1
                await wire.delete()
            await gateway.until(lambda expected=expected: len(stub.seen.deletes) == expected)  # type: ignore[misc]
        assert len(set(stub.calling_sessions)) == 3
