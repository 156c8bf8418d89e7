"""A session listens while anybody does."""

from __future__ import annotations

import gc

from mcpgateway.services.conversation import Conversation
from mcpgateway.services.hearing import Hearing
from mcpgateway.upstream.base import UpstreamSession, Welcome


class Session:
    """As much of an upstream session as listening needs."""

    own_headers = b""

    def __init__(self, version: str = "2026-07-28") -> None:
        self.welcome = Welcome(version)
        self.heard: list[str] = []

    def listen(self, headers: bytes = b"") -> None:
        self.heard.append("begin")

    def stop_listening(self) -> None:
        self.heard.append("end")


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
