"""Credentials as the gateway puts them together: certificates for a token endpoint, and the files of the audit log."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcpgateway import config
from mcpgateway.app import Gateway
from mcpgateway.auth.principals import Principal
from mcpgateway.config.values import OAuthConfig, ServerConfig, TlsConfig
from mcpgateway.errors import ConfigError
from mcpgateway.runtime import Sweep
from mcpgateway.serving import check
from mcpgateway.upstream import tls
from mcpgateway.upstream.open import Opener
from mcpgateway.upstream.tls import TlsContexts
from mcpgateway.wiring import credentials_of
from tests.clients.wire import Wire
from tests.fakes.clock import FakeClock
from tests.fakes.files import replace
from tests.fakes.gateway import serving
from tests.fakes.stub_server import StubServer
from tests.servers.certificates import Authority
from tests.servers.mutual_tls import MutualTlsServer


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def token_url(authority: Authority, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a token endpoint whose tokens are the names in the certificates that it is shown."""
    async with MutualTlsServer(authority, tmp_path, token_named) as server:
        yield f"{server.base}/token"


def token_named(name: str) -> bytes:
    return json.dumps({"access_token": name, "token_type": "bearer"}).encode()


async def test_u11_a_token_endpoint_is_shown_the_certificate_that_is_in_its_files_now(
    authority: Authority, token_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    cert, key = authority.write(tmp_path, "gateway")
    certificates = TlsConfig(ca=authority.write_own(tmp_path), cert=cert, key=key)
    oauth = OAuthConfig(token_url=token_url, client_id="gw", client_secret="s", tls=certificates)
    contexts, sweep = TlsContexts(clock), Sweep()
    opener = Opener(sweep, contexts)
    credentials = credentials_of(ServerConfig("crm", "crm", url="http://crm.test/mcp", oauth=oauth), contexts, opener)
    async with asyncio.timeout(10):
        first = await credentials.obtain(Principal("static", "alice"), ())
        assert first.lines == b"authorization: Bearer gateway\r\n"
        for path, content in zip((cert, key), authority.signed("renewed"), strict=True):
            replace(path, content)
        clock.advance(tls.LOOK_SECONDS)
        second = await credentials.obtain(Principal("static", "bob"), ())
        assert second.lines == b"authorization: Bearer renewed\r\n"
        await credentials.aclose()
        await opener.aclose()
    sweep.close()


async def test_credentials_that_are_closed_leave_connections_to_the_same_host_alone(stub: StubServer) -> None:
    """A token endpoint may be at the upstream's own origin, whose HTTP client is then the same one."""
    oauth = {"token_url": f"http://127.0.0.1:{stub.port}/token", "client_id": "gw", "client_secret": "s"}
    entry: dict[str, Any] = {"url": stub.url, "oauth": oauth}
    opener = Opener(sweep := Sweep())
    server = config.parse(json.dumps({"mcpServers": {"up": entry}}), "test.json", {}).servers[0]
    credentials = credentials_of(server, TlsContexts(), opener)
    async with asyncio.timeout(10):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "x"}}).encode()
        http = opener.http("up", stub.url)
        assert (await http.send(b"POST", b"/mcp", b"", body, 5)).status == 200
        before = (await stub.seen())["connections"]
        await credentials.aclose()
        assert (await http.send(b"POST", b"/mcp", b"", body, 5)).status == 200
        assert (await stub.seen())["connections"] == before + 1, "the one that asked this, and no other"
        await opener.aclose()
    sweep.close()


def audited(stub: StubServer, path: Path) -> dict[str, Any]:
    return {"mcpServers": {"up": {"url": stub.url}}, "gateway": {"audit": {"path": str(path)}}}


async def test_a_check_leaves_no_audit_log_behind(stub: StubServer, tmp_path: Path) -> None:
    settings = config.parse(json.dumps(audited(stub, tmp_path / "audit.jsonl")), "test.json", {})
    async with asyncio.timeout(20):
        reports = [reports async for reports in check(settings)]
    assert reports[-1][0].state == "ready"
    assert not os.listdir(tmp_path)


async def test_a_gateway_keeps_one(stub: StubServer, tmp_path: Path) -> None:
    async with serving(audited(stub, tmp_path / "audit.jsonl")) as gateway, Wire(gateway.url) as client, asyncio.timeout(20):
        await client.initialize()
        await client.call("up__echo")
    assert "tools/call" in (tmp_path / "audit.jsonl").read_text()


async def test_an_audit_log_that_cannot_be_opened_is_a_fault_of_the_configuration(stub: StubServer, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    settings = config.parse(json.dumps(audited(stub, folder / "audit.jsonl")), "test.json", {})
    folder.rmdir()
    with pytest.raises(ConfigError, match=r"test\.json: gateway\.audit\.path: .*audit\.jsonl cannot be opened: No such file"):
        Gateway(settings)


def test_the_program_ends_with_code_2_where_its_audit_log_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("audit.jsonl")  # to all looks a file, until it is opened
        document = {"mcpServers": {}, "gateway": {"audit": {"path": "audit.jsonl"}}}
        Path("mcp.json").write_text(json.dumps(document))
        command = [sys.executable, "-m", "mcpgateway", "serve", "mcp.json", "--port", "0"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2 and ended.stdout == ""
    assert "audit.jsonl cannot be opened: No such device" in ended.stderr and "Traceback" not in ended.stderr
