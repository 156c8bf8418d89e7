"""What a request goes on with, when it comes with answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcpgateway.downstream import envelope
from mcpgateway.downstream.envelope import Envelope
from mcpgateway.downstream.parked import Parked
from mcpgateway.downstream.rounds import Rounds
from mcpgateway.downstream.sealed import Sealer
from mcpgateway.protocol.modern import CAPABILITIES_META, VERSION_META
from mcpgateway.runtime import Sweep
from tests.fakes.clock import FakeClock

HEADERS = [(b"mcp-protocol-version", b"2026-07-28"), (b"mcp-method", b"tools/call"), (b"mcp-name", b"t")]


def request(**params: Any) -> Envelope:
    meta = {VERSION_META: "2026-07-28", CAPABILITIES_META: {}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "_meta": meta, **params}}
    return envelope.read(envelope.decode(json.dumps(body).encode(), 64), HEADERS)


@pytest.fixture
def rounds(clock: FakeClock) -> Rounds:
    sweep = Sweep(clock)
    return Rounds(Sealer(sweep), Parked(sweep))


def test_answers_to_what_nobody_asked_yet_go_along_with_the_call(rounds: Rounds) -> None:
    early = request(inputResponses={"k": {"action": "accept"}})
    assert rounds.resume(early, "alice") is None
    assert {name: json.loads(bytes(value)) for name, value in early.answers.items()} == {
        "inputResponses": {"k": {"action": "accept"}}
    }


def test_a_call_without_answers_is_given_none(rounds: Rounds) -> None:
    first = request()
    assert rounds.resume(first, "alice") is None and first.answers == {}
