"""What the storm found, by itself."""

from __future__ import annotations

import asyncio

from tests.fakes.gateway import serving
from tests.soak.conversation import Conversation, Principal
from tests.soak.ledger import Ledger
from tests.soak.storm import Plan, document, first_of, running, token_of


async def test_u1_a_call_that_is_safe_to_repeat_survives_a_server_that_breaks_off_and_forgets_its_session() -> None:
    plan, ledger = Plan(seed=1, principals=1), Ledger()
    async with running(plan, ledger) as upstreams, serving(document(plan, upstreams)) as gateway, asyncio.timeout(20):
        server = upstreams["bound"]
        principal = Principal("p0", (token_of(0, 0), token_of(0, 1)), gateway.port)
        client = Conversation(principal, 0, "/servers/bound/mcp", {"bound": server}, ledger)
        await client.open()
        await client.list("tools/list", "tools", "description")
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
        await client.end()
        await principal.wire.aclose()
    assert not ledger.findings()
