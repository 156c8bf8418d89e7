"""Modern callers: they have no session, so that what is known of them is found again by who they are and what they can do."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Protocol

from mcpgateway.auth.principals import Principal
from mcpgateway.downstream.changes import Changes
from mcpgateway.downstream.envelope import Envelope
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.jsonrpc import Params
from mcpgateway.protocol.modern import UPDATED
from mcpgateway.runtime import Sweep
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.views import View

MAX_CALLERS = 10_000

Resource = tuple[str, str]
"""An upstream, and its own URI of one of its resources."""


def name_of(resource: Resource) -> str:
    """What a caller's subscription to a resource is known by: its streams may call it by different URIs."""
    return "\n".join(resource)


class Hearer(Protocol):
    """An open stream of a caller's."""

    def list_changed(self, kind: str) -> None: ...

    def updated(self, resource: Resource, params: Params) -> None: ...


class Caller(Conversation):
    """One principal at one endpoint, with one set of capabilities. Its calls share their upstream sessions."""

    principal: Principal

    def __init__(self, principal: Principal, view: View, request: Envelope, sweep: Sweep) -> None:
        super().__init__("", principal, revisions.NEWEST_MODERN, request.capabilities, request.client_info)
        self.view = view
        self.streams: set[Hearer] = set()
        self._changes = Changes(self._say_changed, sweep)

    def sees(self, upstream: str) -> bool:
        return upstream in self.view.upstreams

    def push(self, method: str, params: bytes) -> None:
        """Tell the streams that asked for it. Of what is said outside calls only updates of resources are for one caller."""
        if method != UPDATED:
            return
        fields = jsonrpc.object_of(params)
        slug, _, own = jsonrpc.string_of(fields, "uri").partition("\n")
        for stream in tuple(self.streams):
            stream.updated((slug, own), fields)

    def lists_changed(self, kind: str) -> None:
        """Said a moment later, once however often it is said meanwhile."""
        self._changes.add(kind)

    def _say_changed(self, kind: str) -> None:
        for stream in tuple(self.streams):
            stream.list_changed(kind)


class Asking:
    """A caller as it describes itself in one request; see `protocol.call.Client`."""

    __slots__ = ("capabilities", "client_info", "id", "version")

    def __init__(self, caller: Caller, client_info: bytes) -> None:
        self.id = caller.id
        self.version = caller.version
        self.capabilities = caller.capabilities
        self.client_info = client_info

    def __repr__(self) -> str:
        return f"<Asking {self.version}>"


class Callers:
    """The callers that were here last. One that is forgotten loses no session: those are kept in the pool, by principal.

    Where there are too many, one of the principal who has the most makes room: nobody can push out everybody else.
    """

    def __init__(self, sweep: Sweep, limit: int = MAX_CALLERS) -> None:
        self._sweep = sweep
        self._limit = limit
        self._callers: OrderedDict[tuple[str, frozenset[str], View, bytes], Caller] = OrderedDict()
        self._per_user: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Callers {len(self)} of {len(self._per_user)} principals>"

    def __len__(self) -> int:
        return len(self._callers)

    def all(self) -> list[Caller]:
        return list(self._callers.values())

    def of(self, principal: Principal, view: View, request: Envelope) -> Caller:
        """The caller of a request, new if it was not here before."""
        # Not one for all tokens of a principal: what one of them allows is not what another does.
        key = (principal.id, frozenset(principal.groups), view, request.capabilities)
        caller = self._callers.get(key)
        if caller is None:
            caller = self._callers[key] = Caller(principal, view, request, self._sweep)
            self._per_user[principal.id] += 1
            if len(self._callers) > self._limit:
                self._forget_one()
        else:
            self._callers.move_to_end(key)
            caller.principal = principal  # the same one, perhaps by a newer token
        return caller

    def _forget_one(self) -> None:
        most = max(self._per_user.values())
        key = next(key for key in self._callers if self._per_user[key[0]] == most)
        del self._callers[key]
        self._per_user[key[0]] -= 1
        if not self._per_user[key[0]]:
            del self._per_user[key[0]]
