"""A secret in every place that can hold one, and everything that can go wrong: it is seen at the upstream and nowhere else.

`tests/integration/test_operators.py` plants secrets in the configuration; here are those that come with calls, answers and
tokens too, and everything that can be reached from a gateway shows itself.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import sys
import types
from collections.abc import AsyncIterator, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from mcpgateway import config, logs
from tests.clients.wire import Message, Wire
from tests.fakes.gateway import RunningGateway, serving
from tests.servers.raw_stub import Stub
from tests.servers.token_endpoint import TokenServer

SECRETS = {
    "bearer token": "planted-bearer-01f",
    "wrong bearer token": "planted-wrong-bearer-02f",
    "token in another scheme": "planted-basic-03f",
    "query of the client": "planted-client-query-04f",
    "query of the upstream": "planted-upstream-query-05f",
    "header": "planted-header-06f",
    "bearer header": "planted-bearer-header-07f",
    "header of one caller": "planted-caller-header-08f",
    "forwarded header": "planted-forwarded-09f",
    "environment of a process": "planted-environ-10f",
    "client secret": "planted-client-secret-11f",
    "fetched token": "planted-fetched-token-12f",
    "tool argument": "planted-argument-13f",
    "meta": "planted-meta-14f",
    "cursor": "planted-cursor-15f",
    "client's name": "planted-client-name-16f",
    "error of the upstream": "planted-upstream-error-17f",
    "page of the upstream": "planted-upstream-page-18f",
    "challenge of the upstream": "planted-challenge-19f",
    "result": "planted-result-20f",
    "error of the token endpoint": "planted-token-error-21f",
}
PASSED_ON = {"tool argument", "error of the upstream", "result"}
"""What a caller is told of its own call, for it is the upstream's answer to it."""

AS_ALICE = {"authorization": f"Bearer {SECRETS['bearer token']}", "x-own": SECRETS["forwarded header"]}
CHILD = """
import json, os, sys
for line in sys.stdin:
    print("starting with", os.environ["CHILD_KEY"], file=sys.stderr, flush=True)
    message = json.loads(line)
    if message.get("method") == "tools/call":
        os._exit(3)
    error = {"code": -32000, "message": "no licence for " + os.environ["CHILD_KEY"]}
    print(json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "error": error}), flush=True)
"""
CHILD_SAYS = "mcpgateway.upstream.stdio"
"""What a process writes to stderr is logged as it is, and only what is known to be secret taken out of it."""


def rpc_error(secret: str) -> str:
    error = {"code": -32000, "message": f"bad key {secret}", "data": {"key": secret}}
    return json.dumps({"jsonrpc": "2.0", "id": None, "error": error})


def troubles() -> list[Message]:
    """All the ways in which the stub can fail, each with something secret in what it says."""
    error, page = rpc_error(SECRETS["error of the upstream"]), f"<html>{SECRETS['page of the upstream']}</html>"
    challenge = {"www-authenticate": f'Bearer realm="{SECRETS["challenge of the upstream"]}"'}
    result = json.dumps({"content": [{"type": "text", "text": SECRETS["result"]}], "isError": True})
    return [
        {},
        *({"status": status, "body": error} for status in (200, 400, 404, 500)),
        *({"status": status, "body": page} for status in (200, 301, 404, 429, 502)),
        *({"status": status, "body": error, "headers": challenge} for status in (401, 403)),
        {"cut": True},
        {"raw_result": result},
        {"raw_result": SECRETS["result"]},
    ]


SOUND: Message = {"status": None, "body": "", "headers": {}, "cut": False, "raw_result": None, "hang": False}


def document(stub: Stub, tokens: TokenServer, folder: Path) -> dict[str, Any]:
    """Servers that hold secrets in every place, and fail or can be made to."""
    query = f"?api_key={SECRETS['query of the upstream']}"
    headers = {"X-Api-Key": SECRETS["header"], "Authorization": f"Bearer {SECRETS['bearer header']}"}
    common: dict[str, Any] = {"headers": headers, "forward_headers": ["X-Own"], "timeout_seconds": 1}
    oauth = {"grant": "client_credentials", "token_url": tokens.url, "client_id": "us"}
    secret = {"client_secret": SECRETS["client secret"]}
    caller = {"alice": {"headers": {"X-Key": SECRETS["header of one caller"]}}}
    return {
        "mcpServers": {
            "up": {"url": stub.url + query, **common},
            "down": {"url": f"http://127.0.0.1:9/mcp{query}", **common},
            "sse": {"url": f"http://127.0.0.1:9/sse{query}", "type": "sse", **common},
            "wrong": {"url": f"{stub.url}{query}", "type": "sse", **common},
            "mine": {"url": stub.url, "credentials": caller, "timeout_seconds": 1},
            "oauth": {"url": stub.url, "oauth": {**oauth, **secret}, "timeout_seconds": 1},
            "child": {"command": sys.executable, "args": ["-c", CHILD], "env": {"CHILD_KEY": "${CHILD_KEY}"}},
        },
        "gateway": {
            "auth": {"tokens": {"alice": "sha256:" + sha256(SECRETS["bearer token"].encode()).hexdigest()}},
            "audit": {"path": str(folder / "audit.jsonl")},
            # Often, so that the gateway's own calls fail too.
            "health_check_interval_seconds": 0.05,
        },
    }


def is_ours(record: logging.LogRecord) -> bool:
    """A test's own HTTP client logs too."""
    return record.name.startswith(("mcpgateway", "uvicorn", "asyncio"))


class Raw(logging.Handler):
    """Every line of ours, before anything is taken out of it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if is_ours(record) and record.name != CHILD_SAYS:
            self.lines.append(f"{record.name}: {self.format(record)} {record.args!r}")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The log as it is written, everything in it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.setup(json=True, level="debug", stream=stream)
    root.handlers[0].addFilter(is_ours)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def raw(written: io.StringIO) -> Raw:
    """The log before anything is taken out of it."""
    handler = Raw()
    logging.getLogger().addHandler(handler)
    return handler


@pytest.fixture
async def tokens() -> AsyncIterator[TokenServer]:
    async with TokenServer() as server:
        server.answer = 200, token_answer()
        yield server


def token_answer() -> bytes:
    return json.dumps({"access_token": SECRETS["fetched token"], "token_type": "Bearer", "expires_in": 60}).encode()


def reachable(root: object) -> Iterator[object]:
    """Every object of ours that can be reached from `root`, through whatever."""
    seen = {id(root)}
    ahead = [root]
    while ahead:
        here = ahead.pop()
        if type(here).__module__.startswith("mcpgateway"):
            yield here
        for there in gc.get_referents(here):
            if id(there) not in seen and not isinstance(there, type | types.ModuleType | types.FrameType):
                seen.add(id(there))
                # A function's globals lead everywhere; what a closure holds is its own.
                ahead += (there.__closure__ or ()) if isinstance(there, types.FunctionType) else [there]


def shown(root: object) -> list[str]:
    """How each object that can be reached shows itself: by its repr, and an error by its text."""
    found = list(reachable(root))
    return [repr(each) for each in found] + [str(each) for each in found if isinstance(each, Exception)]


class Tour:
    """Makes calls of all kinds. `own` is what the caller was told of its calls, `others` all else that can be seen."""

    def __init__(self, gateway: RunningGateway, wire: Wire) -> None:
        self._gateway = gateway
        self._wire = wire
        self.own: list[str] = []
        self.others: list[str] = []

    async def call_all(self) -> None:
        """Every server, all methods, with secrets in what is asked."""
        meta = {"_meta": {"key": SECRETS["meta"], "progressToken": SECRETS["meta"]}}
        for name in ("up", "down", "sse", "wrong", "mine", "oauth", "child", "nobody"):
            params = {"name": f"{name}__echo", "arguments": {"text": SECRETS["tool argument"]}, **meta}
            await self._ask("tools/call", params)
            await self._ask("prompts/get", params)
        await self._ask("resources/read", {"uri": f"x://y?{SECRETS['tool argument']}", **meta})
        await self._ask("completion/complete", {"ref": SECRETS["tool argument"], "argument": {"value": 1}})
        await self._ask("tools/call", {"name": [SECRETS["tool argument"]], "arguments": SECRETS["tool argument"]})
        for method in ("tools/list", "resources/list", "prompts/list"):
            await self._ask(method, {})
            await self._ask(method, {"cursor": SECRETS["cursor"]})

    async def _ask(self, method: str, params: Message) -> None:
        reply = await self._wire.post(self._wire.request_message(method, params))
        self.own.append(reply.body.decode())

    async def leave_early(self, stub: Stub) -> None:
        """A call that is cancelled, and one whose client goes away."""
        stub.do({"hang": True})
        message = self._wire.request_message("tools/call", {"name": "up__echo", "arguments": {"t": SECRETS["tool argument"]}})
        calling = asyncio.create_task(self._wire.post(message))
        await self._gateway.until(lambda: any(session.in_flight for session in self._gateway.gateway.sessions.all()))
        params = {"requestId": message["id"], "reason": SECRETS["tool argument"]}
        await self._wire.notify("notifications/cancelled", params)
        self.own.append((await calling).body.decode())
        leaving = asyncio.create_task(self._wire.post({**message, "id": 999}))
        await self._gateway.until(lambda: any(session.in_flight for session in self._gateway.gateway.sessions.all()))
        leaving.cancel()
        await asyncio.wait([leaving])
        stub.do(SOUND)

    async def knock(self) -> None:
        """Requests that are refused at the door."""
        wrong = {"authorization": f"Bearer {SECRETS['wrong bearer token']}"}
        basic = {"authorization": f"Basic {SECRETS['token in another scheme']}"}
        bare = {"authorization": SECRETS["token in another scheme"]}
        async with httpx.AsyncClient(trust_env=False) as http:
            for path in ("/mcp", "/status", "/metrics", "/nothing", "/servers/up/mcp"):
                for headers in ({}, wrong, basic, bare, AS_ALICE):
                    query = f"?token={SECRETS['query of the client']}"
                    answer = await http.post(self._gateway.base + path + query, headers=headers, content=rpc_error("x"))
                    self.others.append(f"{answer.headers} {answer.text}")
            answer = await http.post(self._gateway.url, headers=AS_ALICE, content=SECRETS["tool argument"])
            self.others.append(f"{answer.headers} {answer.text}")

    async def look(self) -> None:
        """What operators see, and how everything shows itself."""
        async with httpx.AsyncClient(trust_env=False, headers=AS_ALICE) as http:
            for path in ("/status", "/metrics", "/healthz", "/readyz"):
                self.others.append((await http.get(self._gateway.base + path)).text)
        self.others += shown(self._gateway.gateway)


def leaks(lines: Iterable[str], secrets: Iterable[str]) -> dict[str, list[str]]:
    """Which secret is in which lines."""
    lines = list(lines)
    found = {name: [_around(line, SECRETS[name]) for line in lines if SECRETS[name] in line] for name in secrets}
    return {name: sorted(set(where)) for name, where in found.items() if where}


def _around(line: str, secret: str) -> str:
    at = line.index(secret)
    return line[max(at - 150, 0) : at + len(secret) + 50]


async def test_p21_whatever_fails_no_secret_is_seen_but_at_the_upstream(
    tokens: TokenServer, stub: Stub, raw: Raw, written: io.StringIO, tmp_path: Path
) -> None:
    environ = {"CHILD_KEY": SECRETS["environment of a process"]}
    planted = document(stub, tokens, tmp_path)
    logs.hide(*config.parse(json.dumps(planted), "test.json", environ).secrets)
    async with serving(planted, **environ) as gateway, Wire(gateway.url, AS_ALICE) as wire, asyncio.timeout(60):
        tour = Tour(gateway, wire)
        await initialize(wire)
        session = str(wire.session)
        await tour.leave_early(stub)
        for trouble in troubles():
            stub.do({**SOUND, **trouble})
            await tour.call_all()
        stub.do(SOUND)
        tokens.answer = 400, json.dumps({"error": SECRETS["error of the token endpoint"]}).encode()
        await tour.call_all()
        await tour.knock()
        await tour.look()
    upstream = json.dumps(stub.seen.requests)
    at_upstream = ("header", "bearer header", "forwarded header", "header of one caller", "fetched token", "tool argument")
    assert [name for name in at_upstream if SECRETS[name] not in upstream] == []
    audit = (tmp_path / "audit.jsonl").read_text()
    assert "tools/call" in audit
    log = written.getvalue()
    assert "starting with ***" in log, "what a process says is logged"
    anybody = [*tour.others, *raw.lines, *log.splitlines(), audit]
    assert leaks(anybody, SECRETS) == {}
    assert leaks(tour.own, SECRETS.keys() - PASSED_ON) == {}
    assert [line for line in anybody if session in line] == []


async def initialize(wire: Wire) -> None:
    """As a client that has a secret in its name."""
    info = {"name": SECRETS["client's name"], "version": "1"}
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
    reply = await wire.post(wire.request_message("initialize", params))
    wire.session, wire.revision = reply.headers["mcp-session-id"], "2025-11-25"
