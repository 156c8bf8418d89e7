"""A session listens while anybody does, and says as much as any of them wants."""

from __future__ import annotations

import asyncio
import gc

import pytest
from msgspec import Raw

from mcpgateway.errors import RpcError
from mcpgateway.protocol.call import Call, Channel
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.hearing import Hearing
from mcpgateway.upstream.base import UpstreamSession, Welcome
from tests.fakes.until import until


class Session:
    """As much of an upstream session as listening needs."""

    own_headers = b""

    def __init__(self, version: str = "2026-07-28", *, logs: bool = True) -> None:
        self.welcome = Welcome(version, {"logging": Raw(b"{}")} if logs else {})
        self.heard: list[str] = []
        self.refuses: BaseException | None = None

    def listen(self, headers: bytes = b"") -> None:
        self.heard.append("begin")

    def stop_listening(self) -> None:
        self.heard.append("end")

    async def request(self, call: Call, channel: Channel) -> bytes:
        self.heard.append(f"{call.method} {bytes(call.params['level']).decode()} {call.headers.decode()}")
        if self.refuses is not None:
            raise self.refuses
        return b"{}"


def conversation() -> Conversation:
    return Conversation("", None, "2025-11-25")


def test_the_first_begins_and_the_last_ends_it() -> None:
    hearing, session, one, two = Hearing(), Session(), conversation(), conversation()
    upstream: UpstreamSession = session  # type: ignore[assignment]
    for each in (one, two, one):
        hearing.begin(upstream, each)
    hearing.end(upstream, one)
    assert session.heard == ["begin"]
    hearing.end(upstream, one)
    hearing.end(upstream, two)
    assert session.heard == ["begin", "end"]


def test_who_never_listened_ends_nothing() -> None:
    hearing, session, one = Hearing(), Session(), conversation()
    hearing.begin(session, one)  # type: ignore[arg-type]
    hearing.end(session, conversation())  # type: ignore[arg-type]
    assert session.heard == ["begin"]


def test_sessions_that_are_gone_are_forgotten() -> None:
    hearing, one = Hearing(), conversation()
    hearing.begin(Session(), one)  # type: ignore[arg-type]
    gc.collect()
    assert repr(hearing) == "<Hearing in 0 sessions>"


def test_a_legacy_server_that_refused_its_stream_is_asked_again_by_the_next_call() -> None:
    hearing, session, one = Hearing(), Session("2025-11-25"), conversation()
    hearing.begin(session, one)  # type: ignore[arg-type]
    hearing.begin(session, one)  # type: ignore[arg-type]
    assert session.heard == ["begin", "begin"]


async def hear_from(hearing: Hearing, session: Session, level: str) -> None:
    call = Call("tools/call", client=conversation(), headers=b"X: 1", log_level=level)
    await hearing.from_level(session, call)  # type: ignore[arg-type]


async def test_the_level_of_a_session_is_lowered_for_who_wants_more_and_never_raised() -> None:
    hearing, session = Hearing(), Session("2025-11-25")
    for level in ("warning", "error", "warning", "nonsense", "debug", "info"):
        await hear_from(hearing, session, level)
    assert session.heard == ['logging/setLevel "warning" X: 1', 'logging/setLevel "debug" X: 1']


@pytest.mark.parametrize("session", [Session("2026-07-28"), Session("2025-11-25", logs=False)])
async def test_a_server_that_takes_no_level_for_a_session_is_told_none(session: Session) -> None:
    await hear_from(Hearing(), session, "debug")
    assert session.heard == []


async def test_a_level_that_was_not_told_to_the_end_is_told_again() -> None:
    hearing, session = Hearing(), Session("2025-11-25")
    session.refuses = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await hear_from(hearing, session, "info")
    session.refuses = RpcError.of(-32601, "no")
    await hear_from(hearing, session, "info")
    await hear_from(hearing, session, "info")
    assert len(session.heard) == 2, "a refusal is an answer"


class Slow(Session):
    """Takes a level at once, and says so when the test lets it."""

    def __init__(self) -> None:
        super().__init__("2025-11-25")
        self.level = b""
        self.answers: list[asyncio.Future[None]] = []

    async def request(self, call: Call, channel: Channel) -> bytes:
        self.level = bytes(call.params["level"])
        self.answers.append(answer := asyncio.get_running_loop().create_future())
        await answer
        return b"{}"


async def test_of_calls_at_the_same_time_the_one_that_wants_most_decides() -> None:
    hearing, session = Hearing(), Slow()
    calls = [asyncio.create_task(hear_from(hearing, session, level)) for level in ("error", "debug", "info", "warning")]
    async with asyncio.timeout(20):
        for number in (0, 1):
            await until(lambda number=number: len(session.answers) > number)
            session.answers[number].set_result(None)
        await asyncio.gather(*calls)
    assert session.level == b'"debug"' and len(session.answers) == 2
