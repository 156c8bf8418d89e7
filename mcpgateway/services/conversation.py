"""A conversation: one client's thread of calls, and what the services remember of it."""

from __future__ import annotations

from mcpgateway.auth.principals import Principal
from mcpgateway.errors import RpcError
from mcpgateway.pool.identity import fingerprint
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import cannot_ask
from mcpgateway.protocol.modern import TASKS
from mcpgateway.services.binding import Binding

GATEWAY_USER = "gateway"
"""The user of what the gateway does for itself. No principal's id looks like this."""


_TASKS = f'"{TASKS}"'.encode()
ASKED = frozenset({"elicitation", "roots", "sampling"})
"""Capabilities of clients that answer questions."""


class Conversation:
    """See `protocol.call.Client`. Each edge has a kind of its own, which knows how to reach its client."""

    def __init__(
        self,
        id: str,
        principal: Principal | None,
        version: str,
        capabilities: bytes = b"{}",
        client_info: bytes = b"{}",
    ) -> None:
        self.id = id
        self.principal = principal
        """Who calls; None for the gateway itself."""
        self.user = principal.id if principal is not None else GATEWAY_USER
        self.version = version
        self.client_info = client_info
        self.declare(capabilities)
        self.may_be_asked = not id and principal is not None and bool(jsonrpc.object_of(capabilities).keys() & ASKED)
        """Whether servers ask this client though it has no stream of its own: then its sessions are heard all the same."""
        self.log_level: str | None = None
        self.listening = False
        """Whether the client hears what is said outside its calls."""
        self.bindings: dict[str, Binding] = {}
        """By upstream: where this conversation's calls go."""
        self.subscriptions: dict[tuple[str, str], str] = {}
        """(upstream, its URI) → the URI that the client subscribed with."""

    def declare(self, capabilities: bytes) -> None:
        """The client says what it can: raw JSON."""
        self.capabilities = capabilities
        self.capabilities_print = fingerprint(capabilities.decode())
        self.knows_tasks = _TASKS in capabilities
        """Whether servers may answer its calls with tasks that it has not asked for."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id[:6] or '-'} {self.version}>"

    def push(self, method: str, params: bytes) -> None:
        """Send a notification outside any call; dropped where nobody listens."""

    async def ask(self, method: str, params: bytes) -> bytes:
        """Ask outside any call. Raises RpcError."""
        raise cannot_ask(method)

    def sees(self, upstream: str) -> bool:
        """Whether an upstream is behind the endpoint that this conversation uses."""
        return True

    def lists_changed(self, kind: str) -> None:
        """Say that a list ('tools', 'resources' or 'prompts') is not what it was."""
        self.push(f"notifications/{kind}/list_changed", b"{}")


def gateway_conversation(version: str) -> Conversation:
    """The conversation of what the gateway asks for itself: health and lists."""
    return Conversation("", None, version)


def refusal_of(error: Exception) -> RpcError:
    """An error of ours as the JSON-RPC error that a peer is told."""
    return error if isinstance(error, RpcError) else RpcError.of(-32603, str(error))
