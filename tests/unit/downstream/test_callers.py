"""Modern callers are found again by who they are and what they can do; what they hear is what their streams asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcpgateway.auth.principals import Principal
from mcpgateway.downstream import envelope
from mcpgateway.downstream.callers import Callers, Resource, name_of
from mcpgateway.downstream.changes import DEBOUNCE_SECONDS
from mcpgateway.downstream.envelope import Envelope
from mcpgateway.protocol.jsonrpc import Params
from mcpgateway.protocol.modern import CAPABILITIES_META, CLIENT_INFO_META, UPDATED, VERSION_META
from mcpgateway.runtime import Sweep
from mcpgateway.services.views import View
from tests.fakes.clock import FakeClock

ALICE, BOB = Principal("static", "alice"), Principal("static", "bob")
HEADERS = [(b"mcp-protocol-version", b"2026-07-28"), (b"mcp-method", b"tools/list")]


def request(capabilities: dict[str, Any] | None = None, program: str = "t") -> Envelope:
    meta = {
        VERSION_META: "2026-07-28",
        CAPABILITIES_META: capabilities or {},
        CLIENT_INFO_META: {"name": program, "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    return envelope.read(envelope.decode(json.dumps(body).encode(), 64), HEADERS)


class Hearing:
    """A stream that writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def list_changed(self, kind: str) -> None:
        self.heard.append(kind)

    def updated(self, resource: Resource, params: Params) -> None:
        self.heard.append(resource)


@pytest.fixture
def sweep(clock: FakeClock) -> Sweep:
    return Sweep(clock)


def test_a_caller_is_the_same_one_with_its_next_request(sweep: Sweep) -> None:
    callers, view = Callers(sweep), View({}, single=False)
    first = callers.of(ALICE, view, request())
    by_another_token = Principal("static", "alice")
    assert callers.of(by_another_token, view, request(program="another")) is first
    assert first.principal is by_another_token and first.id == ""


def test_callers_differ_by_principal_endpoint_and_what_they_can_do(sweep: Sweep) -> None:
    callers, view, other = Callers(sweep), View({}, single=False), View({}, single=False)
    found = {
        callers.of(ALICE, view, request()),
        callers.of(BOB, view, request()),
        callers.of(ALICE, other, request()),
        callers.of(ALICE, view, request({"roots": {}})),
    }
    assert len(found) == 4


def test_p16_no_more_callers_are_remembered_than_allowed_and_the_last_ones_are(sweep: Sweep) -> None:
    callers, view = Callers(sweep, limit=2), View({}, single=False)
    alice, bob = callers.of(ALICE, view, request()), callers.of(BOB, view, request())
    callers.of(ALICE, view, request())
    callers.of(Principal("static", "carol"), view, request())
    assert len(callers) == 2 and callers.of(ALICE, view, request()) is alice
    assert callers.of(BOB, view, request()) is not bob


async def test_c6_list_changes_are_said_together_and_once(sweep: Sweep, clock: FakeClock) -> None:
    caller, stream = Callers(sweep).of(ALICE, View({}, single=False), request()), Hearing()
    caller.streams.add(stream)
    for kind in ("tools", "prompts", "tools"):
        caller.lists_changed(kind)
    assert stream.heard == []
    clock.advance(DEBOUNCE_SECONDS)
    sweep.expire_due()
    assert stream.heard == ["prompts", "tools"]
    sweep.close()


def test_an_update_is_told_as_one_of_its_upstream_and_nothing_else_is(sweep: Sweep) -> None:
    caller, stream = Callers(sweep).of(ALICE, View({}, single=False), request()), Hearing()
    caller.streams.add(stream)
    caller.push(UPDATED, json.dumps({"uri": name_of(("crm", "note://1"))}).encode())
    caller.push("notifications/message", b'{"level":"info","data":1}')
    assert stream.heard == [("crm", "note://1")]


def test_tokens_of_one_principal_that_allow_different_things_are_different_callers(clock: FakeClock) -> None:
    callers, view = Callers(Sweep(clock)), View({}, single=False)
    admin = Principal("static", "alice", groups=("admin", "staff"))
    plain, special = callers.of(ALICE, view, request()), callers.of(admin, view, request())
    assert plain is not special and plain.principal.groups == ()
    assert callers.of(Principal("static", "alice", groups=("staff", "admin")), view, request()) is special
