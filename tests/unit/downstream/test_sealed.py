"""A state that a client carries: good for whom and what it was sealed for, and for nobody and nothing else."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgateway.downstream.sealed import Sealed, Sealer, digest_of
from mcpgateway.errors import InvalidParams
from mcpgateway.protocol.jsonrpc import raw
from mcpgateway.runtime import Sweep
from tests.fakes.clock import FakeClock

REQUEST = digest_of("tools/call", {"name": raw("pay"), "arguments": raw({"to": "bob", "amount": 5})})
HELD = Sealed("parked", "call-7")


@pytest.fixture
def sealer(clock: FakeClock) -> Sealer:
    return Sealer(Sweep(clock))


def refusal(sealer: Sealer, state: str, principal: str = "alice", request: bytes = REQUEST) -> str:
    with pytest.raises(InvalidParams) as refused:
        sealer.open(state, principal, request)
    return str(refused.value)


def test_a_state_gives_back_what_was_sealed_as_often_as_it_is_sent(sealer: Sealer) -> None:
    state = sealer.seal(HELD, "alice", REQUEST, 600)
    assert sealer.open(state, "alice", REQUEST) == sealer.open(state, "alice", REQUEST) == HELD


def test_a_state_shows_nothing_of_what_is_in_it(sealer: Sealer) -> None:
    state = sealer.seal(Sealed("relayed", "secret-of-the-server"), "alice", REQUEST, 600)
    content = base64.urlsafe_b64decode(state)
    assert b"secret" not in content and b"alice" not in content and b"relayed" not in content
    assert state != sealer.seal(Sealed("relayed", "secret-of-the-server"), "alice", REQUEST, 600)


def test_whatever_is_wrong_with_a_state_it_is_refused_in_the_same_words(sealer: Sealer, clock: FakeClock) -> None:
    state = sealer.seal(HELD, "alice", REQUEST, 600)
    elsewhere = Sealer(Sweep(clock)).seal(HELD, "alice", REQUEST, 600)
    other = digest_of("tools/call", {"name": raw("pay"), "arguments": raw({"to": "eve", "amount": 5})})
    said = {
        refusal(sealer, state, principal="eve"),
        refusal(sealer, state, request=other),
        refusal(sealer, elsewhere),
        refusal(sealer, ""),
        refusal(sealer, "not base64 é"),
        refusal(sealer, state + "="),
    }
    clock.advance(600)
    said.add(refusal(sealer, state))
    assert len(said) == 1


def test_where_nothing_was_sealed_nothing_is_opened(sealer: Sealer, clock: FakeClock) -> None:
    elsewhere = Sealer(Sweep(clock)).seal(HELD, "alice", REQUEST, 600)
    assert "is not valid here" in refusal(sealer, elsewhere)


@given(st.data())
def test_no_altered_state_is_taken(data: st.DataObject) -> None:
    sealer = Sealer(Sweep(FakeClock()))
    content = bytearray(base64.urlsafe_b64decode(sealer.seal(HELD, "alice", REQUEST, 600)))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    refusal(sealer, base64.urlsafe_b64encode(content).decode())


ROUND: dict[str, Any] = {"_meta": raw({"a": 1}), "inputResponses": raw({"k": {}}), "requestState": raw("s")}


def test_what_differs_from_round_to_round_does_not_make_it_another_request() -> None:
    params = {"name": raw("pay"), "arguments": raw({"to": "bob", "amount": 5})}
    assert digest_of("tools/call", params | ROUND) == REQUEST
    assert digest_of("prompts/get", params) != REQUEST


def test_a_request_is_the_same_however_its_json_is_written() -> None:
    written = {"arguments": raw({"amount": 5, "to": "bob"}), "name": raw("pay")}
    assert digest_of("tools/call", written) == REQUEST


def test_a_state_of_one_endpoint_is_none_of_another() -> None:
    params = {"name": raw("pay"), "arguments": raw({"to": "bob", "amount": 5})}
    assert digest_of("tools/call", params, "one") != digest_of("tools/call", params, "two") != REQUEST
