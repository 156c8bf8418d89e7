"""What an opener remembers of the servers that it opens sessions with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mcpgateway import runtime
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Target
from mcpgateway.upstream.open import Opener
from tests.fakes.scripted import scripted
from tests.fakes.until import until
from tests.unit.upstream.test_era import Opening, Wanted


@asynccontextmanager
async def remembering(count: int) -> AsyncIterator[Opener]:
    sweep = Sweep(tick_seconds=0.02)
    opener = Opener(sweep, remembered=count)
    yield opener
    await opener.aclose()
    await until(lambda: not runtime.running_tasks())
    sweep.close()


async def test_p16_the_kinds_of_those_servers_are_remembered_that_were_asked_for_last() -> None:
    async with AsyncExitStack() as running, remembering(2) as opener:
        ports = [(await running.enter_async_context(scripted(Wanted("sse").play))).port for _ in range(3)]
        first, second, third = [Opening(opener, port) for port in ports]
        for each in (first, second, first, third):
            assert await each.open_and_close() == "sse"
        known = [opener.transport_of(Target(name="up", url=each.url)) for each in (first, second, third)]
        assert known == ["sse", "auto", "sse"]
        assert await second.open_and_close() == "sse"  # found out anew


async def test_p16_what_is_remembered_of_identities_has_an_end() -> None:
    async with scripted(Wanted("modern").play) as running, remembering(3) as opener:
        target = Target(name="up", url=f"http://127.0.0.1:{running.port}/mcp")
        for number in range(10):
            await (await opener.open(target, Hello(modern=True, identity=str(number)), b"")).aclose()
        assert len(opener._found) == 3
