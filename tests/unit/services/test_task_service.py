"""Whose task it is."""

from __future__ import annotations

import msgspec
import pytest

from mcpgateway.auth.access import Access
from mcpgateway.auth.credentials import StaticCredentials
from mcpgateway.auth.principals import Principal
from mcpgateway.config import ServerConfig
from mcpgateway.metrics import UpstreamFigures
from mcpgateway.pool.breaker import Breaker
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import Call
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.task_service import REMEMBERED_PER_USER, TaskService
from mcpgateway.services.upstream import Upstream

ONE = Upstream(
    ServerConfig(name="one", slug="one", url="http://one.test/mcp"), StaticCredentials(), Breaker(), UpstreamFigures()
)
DECLARED = b'{"extensions":{"io.modelcontextprotocol/tasks":{}}}'


def noted(service: TaskService, user: str, result: bytes, *, asked: bool = True, capabilities: bytes = b"{}") -> str:
    """Note an answer to `user`; the user's id."""
    conversation = Conversation("c", Principal("static", user), "2025-11-25", capabilities)
    params = {"task": jsonrpc.raw({})} if asked else {}
    if service.may_begin(conversation, Call("tools/call", params, client=conversation)):
        service.note(ONE, conversation, result)
    return conversation.user


def known(service: TaskService, user: str, id: str) -> bool:
    return service._is_own(user, ONE, jsonrpc.raw({"taskId": id}))


def test_a_task_that_was_asked_for_is_its_principals_alone() -> None:
    service = TaskService(None, Access(None))  # type: ignore[arg-type]
    alice = noted(service, "alice", b'{"task":{"taskId":"t1","status":"working"}}')
    assert known(service, alice, "t1") and not known(service, Principal("static", "bob").id, "t1")


def test_a_task_of_the_extension_is_known_where_the_caller_declared_it() -> None:
    service = TaskService(None, Access(None))  # type: ignore[arg-type]
    task = b'{"resultType":"task","taskId":"t1","status":"working"}'
    assert not known(service, noted(service, "alice", task, asked=False), "t1")
    assert known(service, noted(service, "alice", task, asked=False, capabilities=DECLARED), "t1")


@pytest.mark.parametrize("result", [b"{}", b'{"task":1}', b'{"task":{"taskId":7}}', b'{"content":[],"task":null}', b"[]"])
def test_answers_of_another_kind_pass(result: bytes) -> None:
    service = TaskService(None, Access(None))  # type: ignore[arg-type]
    noted(service, "alice", result)
    assert repr(service) == "<TaskService with 0 tasks of 0 principals>"


def test_who_makes_many_loses_sight_of_the_oldest_and_others_of_none() -> None:
    service = TaskService(None, Access(None))  # type: ignore[arg-type]
    bob = noted(service, "bob", b'{"task":{"taskId":"of-bob"}}')
    for number in range(REMEMBERED_PER_USER + 1):
        alice = noted(service, "alice", msgspec.json.encode({"task": {"taskId": str(number)}}))
    assert not known(service, alice, "0") and known(service, alice, "1")
    assert known(service, bob, "of-bob")
