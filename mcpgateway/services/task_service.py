"""Tasks: 2025-11-25's own, and those of the extension `io.modelcontextprotocol/tasks` (SEP-2663) in 2026-07-28.

A task's id is a handle that holds for a whole server. Here it holds for the principal alone to whom it was issued: to everybody
else there is no such task.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterable

import msgspec
from msgspec import Raw

from mcpgateway.auth.access import Access
from mcpgateway.errors import GatewayError, InvalidParams
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import Call, Channel
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.forward import Forward
from mcpgateway.services.upstream import Upstream
from mcpgateway.services.views import View

_log = logging.getLogger("mcpgateway.tasks")

REMEMBERED_PER_USER = 1000
REMEMBERED = 100_000
"""Task ids, in all. Who makes more loses sight of the oldest."""

MAX_PAGES = 100


class TaskService:
    """Knows to whom each task was issued, and by which upstream."""

    def __init__(self, forward: Forward, access: Access) -> None:
        self._forward = forward
        self._access = access
        self._issuers: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._per_user: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<TaskService with {len(self._issuers)} tasks of {len(self._per_user)} principals>"

    @staticmethod
    def may_begin(conversation: Conversation, call: Call) -> bool:
        """Whether a server can answer this tools/call with a task."""
        return "task" in call.params or conversation.knows_tasks

    def note(self, upstream: Upstream, conversation: Conversation, result: bytes) -> None:
        """Remember whose task it is, if this answer of a tools/call is one."""
        try:
            fields = jsonrpc.object_of(result)
            task = jsonrpc.object_of(fields["task"]) if "task" in fields else fields
            id = jsonrpc.string_of(task, "taskId")
        except InvalidParams:
            return  # an answer of another kind
        self._remember(conversation.user, id, upstream.slug)

    def _remember(self, user: str, id: str, slug: str) -> None:
        if (user, id) not in self._issuers:
            self._per_user[user] += 1
        self._issuers[user, id] = slug
        if self._per_user[user] > REMEMBERED_PER_USER:
            self._forget(next(key for key in self._issuers if key[0] == user))
        elif len(self._issuers) > REMEMBERED:
            self._forget(next(iter(self._issuers)))

    def _forget(self, key: tuple[str, str]) -> None:
        del self._issuers[key]
        self._per_user[key[0]] -= 1
        if not self._per_user[key[0]]:
            del self._per_user[key[0]]

    async def carry(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of tasks/get, tasks/result, tasks/update or tasks/cancel, from the upstream that issued the task.

        Raises InvalidParams for a task of nobody's, and in the same words for one of somebody else's.
        """
        id = jsonrpc.string_of(call.params, "taskId")
        slug = self._issuers.get((conversation.user, id), "")
        upstream = view.upstreams.get(slug)
        if upstream is None or not self._access.of(conversation.principal).server(slug):
            raise InvalidParams("there is no task of this id")
        return await self._forward.send(upstream, conversation, call, channel)

    async def list_own(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of tasks/list: of each server's, those that were issued to this principal."""
        if view.single:
            return await self._page(view.only, conversation, call, channel)
        tasks: list[Raw] = []
        for upstream in self._with_tasks(view, conversation, call):
            try:
                tasks += await self._all(upstream, conversation, call, channel)
            except GatewayError as error:
                _log.info("tasks/list of %r is left out: %s", upstream.name, error)
        return msgspec.json.encode({"tasks": tasks})

    def _with_tasks(self, view: View, conversation: Conversation, call: Call) -> Iterable[Upstream]:
        """Servers that hold tasks of this principal, as far as it may use them still."""
        rights = self._access.of(conversation.principal)
        issuers = {slug for (user, _), slug in self._issuers.items() if user == conversation.user}
        return [view.upstreams[slug] for slug in view.upstreams.keys() & issuers if rights.server(slug)]

    async def _all(self, upstream: Upstream, conversation: Conversation, asked: Call, channel: Channel) -> list[Raw]:
        tasks: list[Raw] = []
        params = jsonrpc.NO_PARAMS
        for _ in range(MAX_PAGES):
            call = Call("tasks/list", params, client=asked.client, client_headers=asked.client_headers)
            page = jsonrpc.object_of(await self._page(upstream, conversation, call, channel))
            tasks += msgspec.json.decode(page["tasks"], type=list[Raw])
            cursor = page.get("nextCursor")
            if cursor is None or bytes(cursor) == b"null":
                break
            params = {"cursor": cursor}
        return tasks

    async def _page(self, upstream: Upstream, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        page = jsonrpc.object_of(await self._forward.send(upstream, conversation, call, channel))
        listed = msgspec.json.decode(page.get("tasks", b"[]"), type=list[Raw])
        own = [task for task in listed if self._is_own(conversation.user, upstream, task)]
        return msgspec.json.encode(page | {"tasks": jsonrpc.raw(own)})

    def _is_own(self, user: str, upstream: Upstream, task: Raw) -> bool:
        return self._issuers.get((user, jsonrpc.string_of(jsonrpc.object_of(task), "taskId"))) == upstream.slug
