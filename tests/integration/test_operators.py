"""What whoever runs a gateway sees of it: health, status, metrics; and what nobody must ever see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mcpgateway import config
from mcpgateway.metrics import BUCKETS, Figures, UpstreamFigures
from tests.clients.modern_wire import EVERYTHING, ModernWire
from tests.clients.wire import Message, Wire
from tests.fakes.gateway import RunningGateway, one, serving
from tests.servers.asking_stub import AskingStub
from tests.servers.raw_stub import Stub

TOKEN = "planted-token-of-alice-42"
AUTH = {"auth": {"tokens": {"alice": {"hash": "sha256:" + sha256(TOKEN.encode()).hexdigest(), "tenant": "acme"}}}}
AS_ALICE = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with Stub() as server:
        yield server


async def page(gateway: RunningGateway, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(gateway.base + path, headers=headers)


async def figures_of(gateway: RunningGateway, headers: dict[str, str] | None = None) -> dict[tuple[str, ...], float]:
    """Every sample: its name, and the values of its labels, sorted by the labels' names."""
    answer = await page(gateway, "/metrics", headers)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_a_gateway_is_alive_at_once_and_ready_when_every_server_was_tried(stub: Stub) -> None:
    stub.orders.hang = True
    async with serving(one(stub.url), settled=False) as gateway, asyncio.timeout(20):
        assert (await page(gateway, "/healthz")).status_code == 200
        waiting = await page(gateway, "/readyz")
        assert (waiting.status_code, waiting.text) == (503, "connecting\n")
        stub.orders.hang = False
        await stub.aclose()
        await gateway.until(lambda: gateway.gateway.service.settled)
        assert (await page(gateway, "/readyz")).status_code == 200
        gateway.gateway.drain()
        draining = await page(gateway, "/readyz")
        assert (draining.status_code, draining.text) == (503, "draining\n")
        assert (await page(gateway, "/healthz")).status_code == 200


async def test_status_shows_servers_with_their_state_and_principals_only_as_hashes(stub: Stub) -> None:
    document = one(stub.url, AUTH)
    document["mcpServers"]["down"] = {"url": "http://127.0.0.1:9/mcp"}
    async with serving(document) as gateway, Wire(gateway.url, AS_ALICE) as wire, asyncio.timeout(20):
        await wire.initialize()
        await wire.initialize()
        await wire.call("up__counter")
        answer = await page(gateway, "/status", AS_ALICE)
        status = answer.json()
        up, down = status["upstreams"]
        assert (up["name"], up["state"], up["tools"], up["revision"]) == ("up", "ready", 4, "2025-11-25")
        assert (down["state"], bool(down["reason"])) == ("unreachable", True)
        assert up["sessions"] == "bound" and up["sessions_reason"]
        assert status["pool"]["open"] == 2 and status["client_sessions"]["total"] == 2
        ((short, number),) = status["client_sessions"]["by_principal"].items()
        assert len(short) == 12 and number == 2
        assert "alice" not in answer.text and "acme" not in answer.text


async def test_status_shows_each_caller_the_servers_that_it_may_use(stub: Stub) -> None:
    tokens = {name: "sha256:" + sha256(f"token-of-{name}".encode()).hexdigest() for name in ("ada", "bob", "eve")}
    rules = [
        {"who": {"principal": "ada"}, "servers": ["*"]},
        {"who": {"principal": "bob"}, "servers": ["my crm"], "tools": ["echo"]},
    ]
    servers = {"up": {"url": stub.url}, "my crm": {"url": "http://127.0.0.1:9/mcp"}}
    seen = {"ada": ["up", "my crm"], "bob": ["my crm"], "eve": []}
    document = {"mcpServers": servers, "gateway": {"auth": {"tokens": tokens}, "access": rules}}
    async with serving(document) as gateway, asyncio.timeout(20):
        for name, names in seen.items():
            answer = await page(gateway, "/status", {"Authorization": f"Bearer token-of-{name}"})
            assert [each["name"] for each in answer.json()["upstreams"]] == names
            assert ("my crm" in answer.text, "127.0.0.1:9" in answer.text) == ("my crm" in names, "my crm" in names)


@pytest.mark.parametrize("path", ["/status", "/metrics"])
async def test_what_tells_something_needs_authentication_where_there_is_any(path: str, stub: Stub) -> None:
    async with serving(one(stub.url, AUTH)) as gateway, asyncio.timeout(20):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            refused = await page(gateway, path, headers)
            assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Bearer")
        assert (await page(gateway, path, AS_ALICE)).status_code == 200
        for open_path in ("/healthz", "/readyz"):
            assert (await page(gateway, open_path)).status_code == 200
    async with serving(one(stub.url)) as gateway:
        assert (await page(gateway, path)).status_code == 200


async def test_metrics_count_what_happened(stub: Stub) -> None:
    async with serving(one(stub.url)) as gateway, Wire(gateway.url) as wire, asyncio.timeout(20):
        before = await figures_of(gateway)
        await wire.initialize()
        for _ in range(5):
            await wire.call("up__counter")
        await wire.call("up__slow", {"ms": 60})
        stub.do({"status": 502, "times": 1})
        assert "error" in await wire.call("up__counter")
        await wire.post(b"{")
        after = await figures_of(gateway)
        grown = {name: after[name] - before.get(name, 0.0) for name in after}
        assert grown["mcpgateway_calls_total", "up"] == grown["mcpgateway_call_seconds_count", "up"] == 7
        assert grown["mcpgateway_call_errors_total", "HttpRefused", "up"] == 1
        assert grown["mcpgateway_call_seconds_bucket", "+Inf", "up"] == 7
        assert grown["mcpgateway_call_seconds_bucket", "0.05", "up"] <= 6
        assert grown["mcpgateway_call_seconds_sum", "up"] >= 0.06
        assert grown["mcpgateway_refused_requests_total", "ParseError"] == 1
        assert grown["mcpgateway_pool_misses_total",] == 1 and grown["mcpgateway_pool_hits_total",] == 6
        assert grown["mcpgateway_pool_opened_total",] == 1
        assert after["mcpgateway_client_sessions",] == 1
        assert after["mcpgateway_upstream_up", "ready", "up"] == 1
        assert {name[0] for name in after} >= {
            f"mcpgateway_pool_{figure}" for figure in ("open", "idle", "leased", "opening", "waiting", "pool_key_count")
        } | {f"mcpgateway_pool_{figure}_total" for figure in ("hits", "misses", "waits", "opened", "evicted", "timeouts")}
        await wire.delete()
        await gateway.until(lambda: len(stub.seen.deletes) == 1)
        assert (await figures_of(gateway))["mcpgateway_client_sessions",] == 0


async def test_metrics_tell_of_calls_that_wait_for_an_answer_and_of_streams_that_listen() -> None:
    who = {
        "method": "elicitation/create",
        "params": {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}},
    }
    call = {"name": "ask", "arguments": {"rounds": [[who]]}}
    stub = AskingStub()
    await stub.start()
    try:
        async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
            async with ModernWire(gateway.server("up"), capabilities=EVERYTHING) as wire:
                assert await _waiting(gateway) == (0, 0)
                asked = await wire.request("tools/call", call)
                async with wire.listening(toolsListChanged=True) as stream:
                    await anext(stream)
                    assert await _waiting(gateway) == (1, 1)
                (key,) = asked["result"]["inputRequests"]
                await wire.again("tools/call", call, asked, {key: {"action": "decline"}})
                while await _waiting(gateway) != (0, 0):
                    pass  # asking again takes a round trip
    finally:
        await stub.aclose()


async def _waiting(gateway: RunningGateway) -> tuple[float, float]:
    figures = await figures_of(gateway)
    return figures["mcpgateway_parked_calls",], figures["mcpgateway_listen_streams",]


async def test_with_the_pool_off_the_figures_have_the_same_names(stub: Stub) -> None:
    async with serving(one(stub.url)) as gateway:
        pooled = {name[0] for name in await figures_of(gateway)}
    async with serving(one(stub.url, {"session_pool": {"enabled": False}})) as gateway:
        assert {name[0] for name in await figures_of(gateway)} == pooled


def test_a_duration_is_counted_in_the_bucket_that_holds_it() -> None:
    figures = UpstreamFigures()
    for seconds in (0.0, BUCKETS[0], BUCKETS[0] + 1e-9, BUCKETS[-1], BUCKETS[-1] + 1):
        figures.count(seconds)
    assert (figures.calls, figures.buckets[0], figures.buckets[1], figures.buckets[-2], figures.buckets[-1]) == (5, 2, 1, 1, 1)


def test_names_that_break_lines_break_no_metrics() -> None:
    figures = Figures()
    figures.of('a"b\\c\nd').count(1)
    families = list(text_string_to_metric_families(figures.text().decode()))
    assert {sample.labels["upstream"] for family in families for sample in family.samples if sample.labels} == {'a"b\\c\nd'}


# Where a secret is planted, and where each must not come out.

SECRETS = {
    "query": "planted-query-1f",
    "password": "planted-password-2f",
    "header": "planted-header-3f",
    "environ": "planted-environ-4f",
    "child": "planted-child-5f",
    "forwarded": "planted-forwarded-6f",
    "token": TOKEN,
}
CRASHING = "import os, sys; print(os.environ['CHILD_KEY'] * 0 + 'no licence', file=sys.stderr); sys.exit(3)"


def planted(stub: Stub) -> dict[str, Any]:
    """Servers that fail in every way, each with secrets in its configuration."""
    where = f"127.0.0.1:{stub.port}/mcp?key={SECRETS['query']}"
    headers = {"X-Api-Key": SECRETS["header"], "Authorization": "Bearer ${UP_KEY}"}
    common: dict[str, Any] = {"headers": headers, "forward_headers": ["X-Own"], "timeout_seconds": 2}
    servers: dict[str, Any] = {
        "up": {"url": f"http://{where}", **common},
        "down": {"url": f"http://127.0.0.1:9/mcp?key={SECRETS['query']}", **common},
        "sse": {"url": f"http://127.0.0.1:9/sse?key={SECRETS['query']}", "type": "sse", **common},
        "child": {"command": sys.executable, "args": ["-c", CRASHING], "env": {"CHILD_KEY": SECRETS["child"]}},
    }
    return {"mcpServers": servers, "gateway": AUTH}


class Everything(logging.Handler):
    """Every line that is logged, at any level, before anything is taken out of it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record) + repr(record.args))


@contextlib.contextmanager
def all_logs() -> Any:
    handler, root = Everything(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield handler.lines
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def reprs(gateway: RunningGateway) -> list[str]:
    """How everything that holds a secret, or is near one, shows itself."""
    inner = gateway.gateway
    seen = [inner, inner.config, inner.config.gateway, inner.pool, inner.forward, inner.sessions, inner.asgi, inner.catalog]
    seen += [*inner.config.servers, *inner.upstreams.values(), *inner.sessions.all(), *inner.sweep._watched]
    for upstream in inner.upstreams.values():
        seen += [upstream.credentials, upstream.breaker, upstream.figures]
    for session in inner.sessions.all():
        for binding in session.bindings.values():
            seen += [binding, binding.want.key, binding.session]
    return [repr(each) for each in seen]


FAULTS: list[Message] = [{}, {"status": 401}, {"status": 404}, {"status": 500, "body": "x"}, {"status": 302}, {"cut": True}]


async def tour(gateway: RunningGateway, stub: Stub) -> list[str]:
    """All that can be seen of a gateway while its servers fail in every way."""
    said: list[str] = []
    async with Wire(gateway.url, AS_ALICE | {"X-Own": SECRETS["forwarded"]}) as wire:
        said.append((await wire.initialize()).body.decode())
        for fault in FAULTS:
            stub.do({"status": None, "cut": False, **fault})
            for tool in ("up__echo", "down__echo", "sse__echo", "child__echo"):
                said.append(json.dumps(await wire.call(tool)))
            said.append(json.dumps(await wire.request("tools/list")))
            said += reprs(gateway)
        stub.do({"status": None, "cut": False})
        said += [(await page(gateway, path, AS_ALICE)).text for path in ("/status", "/metrics", "/readyz")]
        said.append((await page(gateway, "/status", {"Authorization": f"Bearer {TOKEN}x"})).text)
        return said + reprs(gateway)


async def test_p21_a_planted_secret_appears_nowhere_but_at_the_upstream(stub: Stub) -> None:
    with all_logs() as lines:
        async with serving(planted(stub), UP_KEY=SECRETS["environ"]) as gateway, asyncio.timeout(30):
            said = await tour(gateway, stub)
    assert all(secret in json.dumps(stub.seen.requests) for secret in (SECRETS["header"], SECRETS["environ"]))
    shown = "\n".join([*said, *lines])
    assert "unreachable" in shown and "HTTP 401" in shown
    found = {name: [line[:400] for line in [*said, *lines] if secret in line] for name, secret in SECRETS.items()}
    assert {name: where for name, where in found.items() if where} == {}


async def test_p21_a_url_that_cannot_be_used_does_not_show_its_password(stub: Stub) -> None:
    url = f"http://user:{SECRETS['password']}@127.0.0.1:9/mcp"
    with all_logs() as lines:
        with contextlib.suppress(config.ConfigError):
            async with serving({"mcpServers": {"up": {"url": url}}}) as gateway:
                lines += [(await page(gateway, path)).text for path in ("/status", "/metrics")]
        with pytest.raises(config.ConfigError) as refused:
            config.parse(json.dumps({"mcpServers": {"up": {"url": url, "type": "stdio"}}}), "test.json", {})
    assert SECRETS["password"] not in "\n".join([*lines, str(refused.value)])
