"""Method → service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mcpgateway.auth.principals import Principal
from mcpgateway.errors import MethodNotFound
from mcpgateway.protocol.call import Call, Channel
from mcpgateway.protocol.modern import LISTED_FOR, REMOVED
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.prompt_service import PromptService
from mcpgateway.services.resource_service import ResourceService
from mcpgateway.services.task_service import TaskService
from mcpgateway.services.tool_service import ToolService
from mcpgateway.services.utility_service import UtilityService
from mcpgateway.services.views import View

Handler = Callable[[View, Conversation, Call, Channel], Awaitable[bytes]]


async def _ping(view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
    return b"{}"


class Dispatch:
    """Every request a client may make, other than those that begin and end sessions."""

    def __init__(
        self,
        tools: ToolService,
        resources: ResourceService,
        prompts: PromptService,
        utilities: UtilityService,
        tasks: TaskService,
    ) -> None:
        self._handlers: dict[str, Handler] = {
            "completion/complete": utilities.complete,
            "logging/setLevel": utilities.set_level,
            "ping": _ping,
            "prompts/get": prompts.get,
            "prompts/list": prompts.list,
            "resources/list": resources.list,
            "resources/read": resources.read,
            "resources/subscribe": resources.subscribe,
            "resources/templates/list": resources.templates,
            "resources/unsubscribe": resources.unsubscribe,
            "tasks/cancel": tasks.carry,
            "tasks/get": tasks.carry,
            "tasks/list": tasks.list_own,
            "tasks/result": tasks.carry,
            "tasks/update": tasks.carry,
            "tools/call": tools.call,
            "tools/list": tools.list,
        }

    def __repr__(self) -> str:
        return f"<Dispatch of {len(self._handlers)} methods>"

    def handler(self, method: str) -> Handler:
        """Raises MethodNotFound."""
        handler = self._handlers.get(method)
        if handler is None:
            raise MethodNotFound(f"Method not found: {method[:200]}")
        return handler

    def modern(self, method: str, view: View, call: Call, principal: Principal) -> Handler:
        """As `handler`, with the methods that modern clients have; those of what a single server does not offer are none."""
        capability = LISTED_FOR.get(method)
        if method in REMOVED or (
            capability is not None and view.single and not view.only.offers_to(principal, call, capability)
        ):
            raise MethodNotFound(f"Method not found: {method}")
        return self.handler(method)
