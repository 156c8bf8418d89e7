"""Who listens in which upstream session: a session that several conversations share listens while any of them does."""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakSet

from mcpgateway.protocol import revisions
from mcpgateway.services.conversation import Conversation
from mcpgateway.upstream.base import UpstreamSession


class Hearing:
    """Counts the listeners of each session. Sessions and conversations that are gone are forgotten by themselves."""

    def __init__(self) -> None:
        self._listeners: WeakKeyDictionary[UpstreamSession, WeakSet[Conversation]] = WeakKeyDictionary()

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
