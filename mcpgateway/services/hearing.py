"""Who listens in which upstream session, and from which log level on.

A session that several conversations share listens while any of them does, and says what the one wants that wants most.
"""

from __future__ import annotations

import asyncio
import logging
from weakref import WeakKeyDictionary, WeakSet

from mcpgateway.errors import RpcError
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import Call, NoChannel
from mcpgateway.protocol.levels import LEVELS
from mcpgateway.services.conversation import Conversation
from mcpgateway.upstream.base import UpstreamSession

_log = logging.getLogger("mcpgateway.forward")


class Hearing:
    """Counts the listeners of each session. Sessions and conversations that are gone are forgotten by themselves."""

    def __init__(self) -> None:
        self._listeners: WeakKeyDictionary[UpstreamSession, WeakSet[Conversation]] = WeakKeyDictionary()
        self._levels: WeakKeyDictionary[UpstreamSession, _Level] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Hearing in {len(self._listeners)} sessions>"

    def begin(self, session: UpstreamSession, conversation: Conversation) -> None:
        """A conversation listens in a session."""
        listeners = self._listeners.setdefault(session, WeakSet())
        # A server may have refused its stream for a reason that has passed. In modern ones listening sees to that itself.
        if not listeners or not revisions.is_modern(session.welcome.protocol_version):
            session.listen(session.own_headers)
        listeners.add(conversation)

    def end(self, session: UpstreamSession, conversation: Conversation) -> None:
        """It does so no more. The last one ends the listening."""
        listeners = self._listeners.get(session)
        if listeners is None or conversation not in listeners:
            return
        listeners.discard(conversation)
        if not listeners:
            del self._listeners[session]
            session.stop_listening()

    async def from_level(self, session: UpstreamSession, call: Call) -> None:
        """See that the session says what a client wants to hear that names a level with each call (2026-07-28).

        The level holds for the whole session, so it is lowered and never raised; the edge leaves out what was not asked for.
        """
        level = call.log_level
        if level not in LEVELS or revisions.is_modern(session.welcome.protocol_version):
            return  # a modern server is told with each call
        if "logging" not in session.welcome.capabilities:
            return
        told = self._levels.setdefault(session, _Level())
        if told.suffices(level):
            return
        async with told.telling:
            if not told.suffices(level):  # by now
                await _set_level(session, level, call)
                told.level = level


class _Level:
    """The least severe level that a session was told to send. Told by one call at a time, or the wrong one might be last."""

    def __init__(self) -> None:
        self.level: str | None = None
        self.telling = asyncio.Lock()

    def suffices(self, level: str) -> bool:
        return self.level is not None and LEVELS.index(self.level) <= LEVELS.index(level)


async def _set_level(session: UpstreamSession, level: str, call: Call) -> None:
    told = Call("logging/setLevel", {"level": jsonrpc.raw(level)}, client=call.client, headers=call.headers)
    told.timeout_seconds = call.timeout_seconds
    try:
        await session.request(told, NoChannel())
    except RpcError as error:
        _log.info("%r did not take a log level: error %d", session, error.code)
