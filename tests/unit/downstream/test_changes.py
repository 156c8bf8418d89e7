"""Changed lists are told of together, a moment after the first of them."""

from __future__ import annotations

from mcpgateway.downstream.changes import DEBOUNCE_SECONDS, Changes
from mcpgateway.runtime import Sweep
from tests.fakes.clock import FakeClock


async def test_what_changes_again_meanwhile_is_said_once_and_does_not_put_it_off(clock: FakeClock) -> None:
    said: list[str] = []
    sweep = Sweep(clock)
    changes = Changes(said.append, sweep)
    changes.add("tools")
    clock.advance(DEBOUNCE_SECONDS * 0.6)
    sweep.expire_due()
    assert said == []
    changes.add("prompts")
    changes.add("tools")
    clock.advance(DEBOUNCE_SECONDS * 0.6)
    sweep.expire_due()
    assert said == ["prompts", "tools"] and len(sweep) == 0
    sweep.close()


async def test_what_changes_after_it_was_said_is_said_again(clock: FakeClock) -> None:
    said: list[str] = []
    sweep = Sweep(clock)
    changes = Changes(said.append, sweep)
    for _ in range(2):
        changes.add("tools")
        clock.advance(DEBOUNCE_SECONDS)
        sweep.expire_due()
    assert said == ["tools", "tools"]
    sweep.close()
