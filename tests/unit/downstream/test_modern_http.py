"""The modern edge as a whole, in memory: whatever comes, it answers in this generation's words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpgateway import runtime
from mcpgateway.auth.principals import Principal
from mcpgateway.downstream.dispatch import Handler
from mcpgateway.downstream.parked import Parked
from mcpgateway.downstream.rounds import Rounds
from mcpgateway.downstream.sealed import Sealed, Sealer
from mcpgateway.protocol.call import Call, Channel
from mcpgateway.protocol.modern import CAPABILITIES_META, CLIENT_INFO_META, LOG_LEVEL_META, VERSION_META
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.views import View
from tests.fakes.until import until
from tests.schemas import validity
from tests.unit.downstream.asgi import MCP_HEADERS, Exchange, ask, scope
from tests.unit.downstream.test_endpoint import JSON, gateway_of

VERSION = "2026-07-28"
METHODS = (
    "completion/complete initialize logging/setLevel ping prompts/get prompts/list resources/list resources/read"
    " resources/subscribe resources/templates/list server/discover subscriptions/listen tasks/get tools/call tools/list x"
).split()
META: dict[str, Any] = {VERSION_META: VERSION, CAPABILITIES_META: {"elicitation": {}}, CLIENT_INFO_META: {}}
METAS = st.just(META) | st.dictionaries(st.sampled_from([*META, LOG_LEVEL_META, "progressToken"]), JSON, max_size=4).map(
    lambda some: META | some
)
FIELDS = ["name", "uri", "cursor", "arguments", "ref", "requestState", "inputResponses", "notifications", "taskId"]
PARAMS = st.tuples(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4), METAS).map(
    lambda both: {**both[0], "_meta": both[1]}
)
IDS = st.integers() | st.text(max_size=5) | JSON


def headers_of(message: dict[str, Any]) -> dict[str, str]:
    """What goes with a message, as far as a header can say it."""
    params = message.get("params", {})
    named = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}.get(message["method"], "")
    name = params.get(named)
    own = {"mcp-protocol-version": VERSION, "mcp-method": message["method"]}
    return own | ({"mcp-name": name} if isinstance(name, str) and name.isascii() and name.isprintable() else {})


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(METHODS), PARAMS, IDS)
def test_nothing_that_is_sent_is_a_500_or_leaves_anything(method: str, params: dict[str, Any], id: object) -> None:
    message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}

    async def send() -> Exchange:
        async with gateway_of() as gateway, asyncio.timeout(5):
            exchange = Exchange(json.dumps(message).encode())
            if method == "subscriptions/listen":
                exchange.leave()  # else it would listen for ever
            given_headers = MCP_HEADERS | headers_of(message)
            await gateway.asgi(scope("POST", "/mcp", given_headers), exchange.receive, exchange.send)
            assert not gateway._modern.busy
            exchange.leave()
            while runtime.running_tasks():
                await asyncio.sleep(0)
        return exchange

    exchange = asyncio.run(send())
    assert exchange.status in (200, 400, 404) or method == "subscriptions/listen", (exchange.status, exchange.body)
    for said in exchange.messages:
        assert "InternalError" not in json.dumps(said)
        assert validity.fault(said, VERSION, "client") is None, said


def call(**params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "t", "_meta": META, **params}}


class Broken:
    """A dispatch that fails: when a handler is looked for, or when it runs."""

    def __init__(self, *, at_once: bool) -> None:
        self._at_once = at_once

    def modern(self, method: str, view: View, call: Call, principal: Principal) -> Handler:
        if self._at_once:
            raise ZeroDivisionError("the secret of the dispatch")

        async def break_down(*_: object) -> bytes:
            raise ZeroDivisionError("the secret of the handler")

        return break_down


@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {}}])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_fault_of_ours_is_told_under_the_requests_id_and_says_nothing_of_itself(
    capabilities: dict[str, Any], at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway_of() as gateway:
        gateway._modern._dispatch = Broken(at_once=at_once)  # type: ignore[assignment]
        message = call(_meta=META | {CAPABILITIES_META: capabilities})
        exchange = await ask(gateway.asgi, message, headers_of(message))
    (answer,) = exchange.messages
    assert answer["id"] == 5 and answer["error"]["data"]["kind"] == "InternalError"
    assert "secret" not in json.dumps(answer)
    assert any("ZeroDivisionError" in (record.exc_text or "") for record in caplog.records)


class Waiting:
    """A dispatch whose one handler waits, and notes what ends its waiting."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = False

    def modern(self, method: str, view: View, call: Call, principal: Principal) -> Handler:
        return self._wait

    async def _wait(self, *_: object) -> bytes:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return b""


@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {}}])
async def test_c1_a_client_that_leaves_cancels_its_call_and_who_serves_it_goes_on(capabilities: dict[str, Any]) -> None:
    async with gateway_of() as gateway, asyncio.timeout(5):
        gateway._modern._dispatch = waiting = Waiting()  # type: ignore[assignment]
        exchange = await _begun(gateway.asgi, waiting, capabilities)
        exchange[0].leave()
        await exchange[1]  # which returns, and is not cancelled
        while not waiting.cancelled:
            await asyncio.sleep(0)
        assert not gateway._modern.busy


@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {}}])
async def test_who_serves_a_request_may_be_cancelled_and_so_is_the_call(capabilities: dict[str, Any]) -> None:
    async with gateway_of() as gateway, asyncio.timeout(5):
        gateway._modern._dispatch = waiting = Waiting()  # type: ignore[assignment]
        exchange, serving = await _begun(gateway.asgi, waiting, capabilities)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        while not waiting.cancelled:
            await asyncio.sleep(0)
        exchange.leave()
        assert not gateway._modern.busy


async def _begun(
    app: Callable[..., Any], waiting: Waiting, capabilities: dict[str, Any]
) -> tuple[Exchange, asyncio.Task[None]]:
    """A call that runs."""
    message = call(_meta=META | {CAPABILITIES_META: capabilities})
    exchange = Exchange(json.dumps(message).encode())
    request = scope("POST", "/mcp", MCP_HEADERS | headers_of(message))
    serving = asyncio.create_task(app(request, exchange.receive, exchange.send))
    await waiting.begun.wait()
    return exchange, serving


class Asking:
    """A dispatch whose one handler asks its client something, and notes when it is over."""

    def __init__(self) -> None:
        self.over = False

    def modern(self, method: str, view: View, call: Call, principal: Principal) -> Handler:
        return self._ask

    async def _ask(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        try:
            return await channel.ask("elicitation/create", b'{"message":"?"}')
        finally:
            self.over = True


class Jammed(Sealer):
    """A sealer that cannot seal."""

    def seal(self, sealed: Sealed, principal: str, request: bytes, seconds: float) -> str:
        raise ZeroDivisionError


async def test_a_call_whose_questions_cannot_be_put_is_not_left_to_wait_for_answers() -> None:
    async with gateway_of() as gateway, asyncio.timeout(5):
        gateway._modern._dispatch = asking = Asking()  # type: ignore[assignment]
        gateway._modern._rounds = Rounds(Jammed(gateway.sweep), Parked(gateway.sweep))
        message = call()
        exchange = await ask(gateway.asgi, message, headers_of(message))
        assert exchange.messages[0]["error"]["data"]["kind"] == "InternalError"
        await until(lambda: asking.over)
        assert not gateway._modern.busy


class Looking:
    """Looks for a tool's schema for ever."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def mirrored_schema(self, *_: object) -> None:
        self.begun.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("stops", [True, False])
async def test_a_call_whose_headers_are_still_checked_ends_with_the_gateway_and_with_its_client(stops: bool) -> None:
    message = call(arguments={"a": 1}, _meta=META | {CAPABILITIES_META: {}})
    async with gateway_of() as gateway, asyncio.timeout(20):
        gateway._modern._tools = looking = Looking()  # type: ignore[assignment]
        exchange = Exchange(json.dumps(message).encode())
        request = scope("POST", "/mcp", MCP_HEADERS | headers_of(message))
        task = asyncio.create_task(gateway.asgi(request, exchange.receive, exchange.send))
        await looking.begun.wait()
        assert gateway._modern.busy, "draining waits for it"
        if stops:
            gateway.give_up()
        else:
            exchange.leave()
        await task
    assert (b"GatewayStopped" in exchange.body) == stops
