"""Headers that an upstream is shown for its callers change while they talk: who is shown under others notices, nobody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcpgateway import config
from mcpgateway.errors import ConfigError
from mcpgateway.services.forward import SESSION_META
from tests.clients.messages import text_of
from tests.clients.modern_wire import ModernWire
from tests.clients.wire import Wire
from tests.fakes.callers import bearer, letting_in
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.until import until
from tests.servers.certificates import Authority
from tests.servers.raw_stub import Stub


@pytest.fixture
async def crm() -> AsyncIterator[Stub]:
    async with Stub() as stub:
        yield stub


def document(crm: Stub, keys: dict[str, str], **entry: Any) -> dict[str, Any]:
    """Alice and Bob call, and each is shown under its key in `keys`."""
    credentials = {name: {"headers": {"X-Key": key}} for name, key in keys.items()}
    server = {"url": crm.url, "credentials": credentials} | entry
    return {"mcpServers": {"crm": server}, "gateway": letting_in("alice", "bob")}


async def change(gateway: RunningGateway, document: dict[str, Any]) -> None:
    await gateway.gateway.apply(config.parse(json.dumps(document), "test.json", {}))


@asynccontextmanager
async def calling(gateway: RunningGateway, name: str) -> AsyncIterator[Wire]:
    async with Wire(gateway.server("crm"), bearer(name)) as client:
        await client.initialize()
        yield client


async def counted(client: Wire) -> tuple[int, str]:
    """How often the upstream session was counted in, and its id."""
    found = json.loads(text_of(await client.call("counter")))
    return found["count"], found["session"]


async def key_shown(client: Wire) -> str | None:
    key: str | None = json.loads(text_of(await client.call("whoami"))).get("x-key")
    return key


async def test_i10_a_rotated_key_of_one_caller_leaves_the_sessions_of_the_others_alone(crm: Stub) -> None:
    async with serving(document(crm, {"alice": "a1", "bob": "b1"})) as gateway, asyncio.timeout(20):
        async with calling(gateway, "alice") as alice, calling(gateway, "bob") as bob:
            (_, alices), (_, bobs) = await counted(alice), await counted(bob)
            opened = crm.seen.initializes
            await change(gateway, document(crm, {"alice": "a2", "bob": "b1"}))
            await until(lambda: alices in crm.seen.deletes)
            assert await counted(bob) == (2, bobs) and await key_shown(bob) == "b1"
            assert crm.seen.initializes == opened, "neither Bob nor the gateway itself needs a new one"
            assert await key_shown(alice) == "a2"
            count, session = await counted(alice)
            assert count == 1 and session != alices
            assert crm.seen.deletes == [alices]
            assert crm.seen.initializes == opened + 1


async def test_i10_a_caller_whose_key_was_rotated_is_told_that_its_state_is_lost_and_nobody_else_is(crm: Stub) -> None:
    async with serving(document(crm, {"alice": "a1", "bob": "b1"})) as gateway, asyncio.timeout(20):
        async with calling(gateway, "alice") as alice, calling(gateway, "bob") as bob:
            await counted(alice)
            await counted(bob)
            await change(gateway, document(crm, {"alice": "a2", "bob": "b1"}))
            assert SESSION_META in (await alice.call("counter"))["result"]["_meta"]
            assert "_meta" not in (await alice.call("counter"))["result"]
            assert "_meta" not in (await bob.call("counter"))["result"]


async def test_i10_a_call_under_the_old_key_ends_well_and_its_session_after_it(crm: Stub) -> None:
    async with serving(document(crm, {"alice": "a1"})) as gateway, asyncio.timeout(20):
        async with calling(gateway, "alice") as alice:
            _, old = await counted(alice)
            slow = asyncio.create_task(alice.call("slow", {"ms": 200}))
            await until(lambda: crm.seen.running == 1)
            await change(gateway, document(crm, {"alice": "a2"}))
            assert await key_shown(alice) == "a2" and crm.seen.running == 1 and not crm.seen.deletes
            assert text_of(await slow) == "slept 200 ms"
            await until(lambda: crm.seen.deletes == [old])


async def test_i10_a_key_that_is_withdrawn_ends_its_sessions_without_another_call(crm: Stub) -> None:
    keys = {"alice": "a1", "bob": "b1"}
    async with serving(document(crm, keys, credentials_required=True)) as gateway, asyncio.timeout(20):
        async with calling(gateway, "alice") as alice, calling(gateway, "bob") as bob:
            (_, alices), (_, bobs) = await counted(alice), await counted(bob)
            await change(gateway, document(crm, {"bob": "b1"}, credentials_required=True))
            await until(lambda: crm.seen.deletes == [alices])
            assert "there is no credential of yours" in (await alice.call("counter"))["error"]["message"]
            assert await counted(bob) == (2, bobs)


async def test_i10_a_key_that_is_withdrawn_from_a_caller_without_a_session_ends_what_it_had_upstream(crm: Stub) -> None:
    async with serving(document(crm, {"alice": "a1", "bob": "b1"})) as gateway, asyncio.timeout(20):
        url = gateway.server("crm")
        async with ModernWire(url, bearer("alice")) as alice, ModernWire(url, bearer("bob")) as bob:
            (_, alices), (_, bobs) = await counted(alice), await counted(bob)
            await change(gateway, document(crm, {"alice": "a2", "bob": "b1"}))
            await until(lambda: alices in crm.seen.deletes)
            assert (await counted(bob)) == (2, bobs)
            answer = await alice.call("counter")
            assert answer["result"]["_meta"][SESSION_META]["renewed"] is True


@pytest.mark.parametrize("sessions", ["principal", "shared", "single_use"])
async def test_i10_sessions_that_are_no_conversations_alone_end_with_their_key_too(crm: Stub, sessions: str) -> None:
    async with serving(document(crm, {"alice": "a1", "bob": "b1"}, sessions=sessions)) as gateway, asyncio.timeout(20):
        async with calling(gateway, "alice") as alice, calling(gateway, "bob") as bob:
            assert (await key_shown(alice), await key_shown(bob)) == ("a1", "b1")
            await change(gateway, document(crm, {"alice": "a2", "bob": "b1"}, sessions=sessions))
            await until(lambda: not open_sessions(crm, "a1"))
            assert (await key_shown(alice), await key_shown(bob)) == ("a2", "b1")


def open_sessions(crm: Stub, key: str) -> list[str]:
    """The upstream sessions that were opened under a key and are not closed."""
    sessions = crm.seen.sessions.items()
    return [id for id, each in sessions if each["headers"].get("x-key") == key and id not in crm.seen.deletes]


async def test_i10_headers_that_are_everybodys_take_everybody_and_the_gateway_itself_to_new_sessions(crm: Stub) -> None:
    async with serving(document(crm, {}, headers={"X-Key": "all-1"})) as gateway, asyncio.timeout(20):
        async with calling(gateway, "alice") as alice, calling(gateway, "bob") as bob:
            assert await key_shown(alice) == await key_shown(bob) == "all-1"
            upstream = gateway.gateway.upstreams["crm"]
            await change(gateway, document(crm, {}, headers={"X-Key": "all-2"}))
            assert await key_shown(alice) == await key_shown(bob) == "all-2"
            await until(lambda: not open_sessions(crm, "all-1") and len(open_sessions(crm, "all-2")) == 3)
            assert gateway.gateway.upstreams["crm"] is upstream, "what is known of the server stays known"


async def test_other_changes_of_an_entry_drain_it_for_all(crm: Stub) -> None:
    keys = {"alice": "a1", "bob": "b1"}
    async with serving(document(crm, keys)) as gateway, asyncio.timeout(20):
        async with calling(gateway, "bob") as bob:
            _, old = await counted(bob)
            await change(gateway, document(crm, keys | {"alice": "a2"}, timeout_seconds=9))
            count, session = await counted(bob)
            assert count == 1 and session != old


OAUTH = {"token_url": "https://idp.example/token", "client_id": "gw", "client_secret": "s", "tls": {"ca": "ca.pem"}}


def read_before_its_ca_vanished(document: dict[str, Any], folder: Path) -> config.Config:
    """What is found right when it is read, and cannot be used any more when it is put into force."""
    authority = Path(Authority().write_own(folder))
    read = config.parse(json.dumps(document), str(folder / "test.json"), {})
    authority.unlink()
    return read


async def test_a_configuration_that_cannot_be_put_into_force_whole_is_not_at_all(crm: Stub, tmp_path: Path) -> None:
    after = document(crm, {"alice": "a2"})
    after["mcpServers"] |= {"first": {"url": crm.url}, "second": {"url": crm.url, "oauth": OAUTH}}
    after["gateway"]["auth"] = {"tokens": {"alice": "sha256:" + "0" * 64}}
    read = read_before_its_ca_vanished(after, tmp_path)
    async with serving(document(crm, {"alice": "a1"})) as gateway, asyncio.timeout(20):
        async with calling(gateway, "alice") as alice:
            _, session = await counted(alice)
            with pytest.raises(ConfigError, match=r"ca\.pem"):
                await gateway.gateway.apply(read)
            assert list(gateway.gateway.upstreams) == list(gateway.gateway.figures.upstreams) == ["crm"]
            assert not await known(gateway, "first")
            assert await counted(alice) == (2, session) and await key_shown(alice) == "a1"


async def known(gateway: RunningGateway, server: str) -> bool:
    async with Wire(gateway.server(server), bearer("alice")) as client:
        return (await client.initialize()).status != 404
