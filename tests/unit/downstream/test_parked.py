"""Calls that wait for their client: what they are asked, who finds them again, and their end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from mcpgateway import runtime
from mcpgateway.downstream.parked import GRACE_SECONDS, PARKED_SECONDS, Interaction, Outcome, Parked
from mcpgateway.errors import InvalidParams, RpcError
from mcpgateway.protocol.jsonrpc import raw
from mcpgateway.runtime import Sweep
from tests.fakes.clock import FakeClock
from tests.fakes.peers import Ear, tool_call
from tests.fakes.until import until

ABLE = b'{"elicitation":{},"roots":{},"sampling":{}}'
Work = Callable[[Interaction], Coroutine[Any, Any, Outcome]]


async def one_question(interaction: Interaction) -> Outcome:
    try:
        return await interaction.ask("elicitation/create", b'{"message":"?"}')
    except RpcError as error:
        return error


def started(work: Work = one_question, capabilities: bytes = ABLE) -> Interaction:
    interaction = Interaction(tool_call("t"), capabilities)
    interaction.start(work(interaction))
    return interaction


class Rig:
    """What keeps parked calls, and time that only the test moves."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.sweep = Sweep(clock)
        self.parked = Parked(self.sweep, per_user=3, limit=5)

    async def park(self, user: str = "alice", work: Work = one_question) -> Interaction:
        """A call that waits for an answer."""
        interaction = started(work)
        async with asyncio.timeout(5):
            assert not await interaction.round()
        self.parked.park(interaction, user)
        return interaction

    def pass_by(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.sweep.expire_due()


@pytest.fixture
async def rig(clock: FakeClock) -> AsyncIterator[Rig]:
    rig = Rig(clock)
    yield rig
    rig.parked.close()
    await until(lambda: runtime.running_tasks() == [])
    rig.sweep.close()


async def test_a_call_that_asks_nothing_is_over_after_its_first_round() -> None:
    async def work(interaction: Interaction) -> Outcome:
        return b"done"

    interaction = started(work)
    async with asyncio.timeout(5):
        assert await interaction.round()
    assert interaction.outcome == b"done"


async def test_questions_asked_together_are_one_round(rig: Rig) -> None:
    async def work(interaction: Interaction) -> Outcome:
        asked = (interaction.ask("elicitation/create", b"{}"), interaction.ask("roots/list", b"{}"))
        return b" ".join(await asyncio.gather(*asked))

    interaction = await rig.park(work=work)
    questions = interaction.questions()
    assert [json.loads(bytes(each))["method"] for each in questions.values()] == ["elicitation/create", "roots/list"]
    interaction.take({key: raw({"for": key}) for key in questions})
    async with asyncio.timeout(5):
        assert await interaction.round()
    assert interaction.outcome == b" ".join(b'{"for":"%b"}' % key.encode() for key in questions)


async def test_a_question_that_follows_at_once_belongs_to_the_same_round(rig: Rig) -> None:
    async def late(interaction: Interaction) -> bytes:
        for _ in range(3):
            await asyncio.sleep(0)
        return await interaction.ask("roots/list", b"{}")

    async def work(interaction: Interaction) -> Outcome:
        return b"".join(await asyncio.gather(interaction.ask("elicitation/create", b"{}"), late(interaction)))

    interaction = await rig.park(work=work)
    assert len(interaction.questions()) == 2


async def test_what_was_not_answered_is_asked_again_and_what_was_not_asked_is_left(rig: Rig) -> None:
    async def work(interaction: Interaction) -> Outcome:
        asked = (interaction.ask("elicitation/create", b"{}"), interaction.ask("roots/list", b"{}"))
        return b"".join(await asyncio.gather(*asked))

    interaction = await rig.park(work=work)
    first, second = interaction.questions()
    interaction.take({first: raw(1), "nobody-asked": raw(2)})
    async with asyncio.timeout(5):
        assert not await interaction.round()
        assert interaction.questions().keys() == {second}
        interaction.take({first: raw(3), second: raw(4)})
        assert await interaction.round()
    assert interaction.outcome == b"14"


async def test_a_further_question_has_a_name_of_its_own(rig: Rig) -> None:
    async def work(interaction: Interaction) -> Outcome:
        return await interaction.ask("roots/list", b"{}") + await interaction.ask("roots/list", b"{}")

    interaction = await rig.park(work=work)
    (first,) = interaction.questions()
    interaction.take({first: raw(1)})
    async with asyncio.timeout(5):
        assert not await interaction.round()
    assert interaction.questions().keys().isdisjoint({first})


@pytest.mark.parametrize(
    ("capabilities", "method", "params", "lacked"),
    [
        (b"{}", "elicitation/create", b"{}", {"elicitation": {}}),
        (b'{"elicitation":{}}', "elicitation/create", b'{"mode":"url"}', {"elicitation": {"url": {}}}),
        (b'{"elicitation":{"url":{}}}', "elicitation/create", b"{}", {"elicitation": {}}),
        (b'{"elicitation":true}', "elicitation/create", b'{"mode":"url"}', {"elicitation": {"url": {}}}),
        (b'{"elicitation":{}}', "sampling/createMessage", b"{}", {"sampling": {}}),
        (b'{"sampling":{}}', "sampling/createMessage", b'{"tools":[]}', {"sampling": {"tools": {}}}),
        (b'{"sampling":{}}', "roots/list", b"{}", {"roots": {}}),
    ],
)
async def test_a_client_is_not_asked_what_it_did_not_declare(
    capabilities: bytes, method: str, params: bytes, lacked: dict[str, Any]
) -> None:
    interaction = Interaction(tool_call("t"), capabilities)
    with pytest.raises(RpcError, match="-32601"):
        await interaction.ask(method, params)
    assert interaction.questions() == {} and interaction.lacked == lacked


async def test_nobody_is_asked_what_no_client_answers() -> None:
    with pytest.raises(RpcError, match="-32601"):
        await Interaction(tool_call("t"), ABLE).ask("tasks/get", b"{}")


async def test_c5_a_parked_call_is_found_by_its_owner_alone_and_once(rig: Rig) -> None:
    interaction = await rig.park("alice")
    with pytest.raises(InvalidParams, match="expired"):
        rig.parked.claim(interaction.id, "eve")
    assert rig.parked.claim(interaction.id, "alice") is interaction
    with pytest.raises(InvalidParams, match="expired"):
        rig.parked.claim(interaction.id, "alice")
    interaction.end()


async def test_what_a_server_says_between_rounds_is_told_to_nobody(rig: Rig) -> None:
    ear = Ear()
    interaction = await rig.park()
    interaction.attach(ear, None)
    interaction.notify("notifications/message", b"{}")
    rig.parked.claim(interaction.id, "alice")
    rig.parked.park(interaction, "alice")
    interaction.notify("notifications/message", b"{}")
    assert ear.heard.qsize() == 1


async def test_progress_has_the_token_of_the_request_that_waits_for_it(rig: Rig) -> None:
    ear = Ear()
    interaction = await rig.park()
    interaction.attach(ear, raw("second"))
    interaction.notify("notifications/progress", b'{"progressToken":"first","progress":2}')
    assert await ear.next() == ("notifications/progress", {"progressToken": "second", "progress": 2})
    interaction.attach(ear, None)
    interaction.notify("notifications/progress", b'{"progressToken":"first","progress":3}')
    assert ear.heard.empty()


async def test_a_client_that_does_not_come_back_is_refused_for_and_nothing_is_left(rig: Rig) -> None:
    interaction = await rig.park()
    rig.pass_by(PARKED_SECONDS - 1)
    assert len(rig.parked) == 1 and not interaction.over
    rig.pass_by(1)
    await until(lambda: interaction.over)
    assert isinstance(interaction.outcome, RpcError) and len(rig.parked) == 0
    with pytest.raises(InvalidParams, match="expired"):
        rig.parked.claim(interaction.id, "alice")
    rig.pass_by(GRACE_SECONDS)
    assert len(rig.sweep) == 0


async def test_a_call_that_goes_on_when_its_question_was_refused_is_cancelled(rig: Rig) -> None:
    refused = asyncio.Event()

    async def stubborn(interaction: Interaction) -> Outcome:
        await one_question(interaction)
        with pytest.raises(RpcError):
            await interaction.ask("roots/list", b"{}")
        refused.set()
        await asyncio.Event().wait()
        return b""

    interaction = await rig.park(work=stubborn)
    rig.pass_by(PARKED_SECONDS)
    assert len(rig.parked) == 1  # which a gateway that drains waits for
    async with asyncio.timeout(5):
        await refused.wait()
    rig.pass_by(GRACE_SECONDS)
    await until(lambda: interaction.over)
    assert len(rig.parked) == 0


async def test_coming_back_in_time_begins_the_time_anew(rig: Rig) -> None:
    interaction = await rig.park()
    rig.pass_by(PARKED_SECONDS - 1)
    rig.parked.park(rig.parked.claim(interaction.id, "alice"), "alice")
    rig.pass_by(PARKED_SECONDS - 1)
    assert rig.parked.claim(interaction.id, "alice") is interaction
    interaction.end()


async def test_one_principal_who_parks_too_much_loses_the_oldest_and_nobody_else_does(rig: Rig) -> None:
    others = [await rig.park("bob")]
    calls = [await rig.park("alice") for _ in range(4)]
    await until(lambda: calls[0].over)
    assert not any(each.over for each in (*calls[1:], *others))


async def test_where_all_together_park_too_much_who_has_the_most_makes_room(rig: Rig) -> None:
    alices = [await rig.park("alice") for _ in range(3)]
    bobs = [await rig.park("bob") for _ in range(2)]
    carol = await rig.park("carol")
    await until(lambda: alices[0].over)
    assert not any(each.over for each in (*alices[1:], *bobs, carol))


async def test_a_question_that_is_withdrawn_is_not_asked(rig: Rig) -> None:
    async def work(interaction: Interaction) -> Outcome:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await interaction.ask("roots/list", b"{}")
        return await interaction.ask("elicitation/create", b"{}")

    interaction = await rig.park(work=work)
    assert [json.loads(bytes(each))["method"] for each in interaction.questions().values()] == ["elicitation/create"]


async def test_a_visit_to_a_url_has_no_name_on_the_modern_wire(rig: Rig) -> None:
    async def work(interaction: Interaction) -> Outcome:
        params = b'{"mode":"url","url":"https://x.test","message":"m","elicitationId":"e1"}'
        return await interaction.ask("elicitation/create", params)

    interaction = Interaction(tool_call("t"), b'{"elicitation":{"url":{}}}')
    interaction.start(work(interaction))
    async with asyncio.timeout(5):
        await interaction.round()
    (question,) = interaction.questions().values()
    assert json.loads(bytes(question))["params"] == {"mode": "url", "url": "https://x.test", "message": "m"}
    interaction.end()
    await until(lambda: interaction.over)
