"""What the storm found, by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.fakes.gateway import serving
from tests.soak.conversation import Conversation, Principal
from tests.soak.ledger import Ledger
from tests.soak.storm import Plan, document, first_of, running, token_of
from tests.soak.upstream import SoakUpstream


@asynccontextmanager
async def conversing(ledger: Ledger) -> AsyncIterator[tuple[Conversation, SoakUpstream]]:
    """One conversation with a server that keeps a session for each, and that server."""
    plan = Plan(seed=1, principals=1)
    async with running(plan, ledger) as upstreams, serving(document(plan, upstreams)) as gateway, asyncio.timeout(20):
        principal = Principal("p0", (token_of(0, 0), token_of(0, 1)), gateway.port)
        client = Conversation(principal, 0, "/servers/bound/mcp", {"bound": upstreams["bound"]}, ledger)
        await client.open()
        await client.list("tools/list", "tools", "description")
        yield client, upstreams["bound"]
        await client.end()
        await principal.wire.aclose()


async def test_u1_a_call_that_is_safe_to_repeat_survives_a_server_that_breaks_off_and_forgets_its_session() -> None:
    ledger = Ledger()
    async with conversing(ledger) as (client, server):
        before = await client.call("bound", "count")
        call = client.next_call()
        hold = server.hold(call, may_be_cancelled=False)
        calling = asyncio.create_task(client.call("bound", "wait", call, stream=False))
        await first_of(calling, hold.began)
        server.forget("404")
        await server.drop()
        after = await calling
        assert before is not None and after is not None, "the repeated call met the lost session, and was not repeated again"
        assert after["session"] != before["session"]
    assert not ledger.findings()


async def test_what_the_server_holds_is_over_when_its_connection_breaks_for_nobody_can_cancel_it_any_more() -> None:
    ledger = Ledger()
    async with conversing(ledger) as (client, server):
        call = client.next_call()
        hold = server.hold(call, may_be_cancelled=True)
        calling = asyncio.create_task(client.call("bound", "hold", call, stream=False))
        await first_of(calling, hold.began)
        await server.drop()
        assert await calling is None
        await hold.over.wait()
    assert not ledger.findings() and ledger.failures == 1
