"""Callers with JWTs, what they may use, and which credential an upstream sees for them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mcpgateway.auth.tokens import new_token
from tests.clients.wire import Wire
from tests.fakes.gateway import serving
from tests.fakes.stub_server import StubServer

ISSUER = "https://login.example.com"
PUBLIC = "https://mcp.example.com"


class Issuer:
    """Gives out tokens that the gateway under test accepts."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.key_file = folder / "issuer.pem"
        self.key_file.write_bytes(public)

    def settings(self) -> dict[str, Any]:
        claims = {"tenant_claim": "org", "groups_claim": "groups"}
        return {"issuer": ISSUER, "audience": PUBLIC, "key_file": str(self.key_file), **claims}

    def token(self, subject: str, **claims: Any) -> str:
        now = int(time.time())
        all_claims = {"iss": ISSUER, "aud": PUBLIC, "sub": subject, "iat": now, "exp": now + 600, **claims}
        return jwt.encode(all_claims, self._key, algorithm="ES256")

    def headers(self, subject: str, **claims: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(subject, **claims)}"}


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path)


def document(issuer: Issuer, stub: StubServer, server: dict[str, Any] | None = None, **gateway: Any) -> dict[str, Any]:
    settings = {"public_url": PUBLIC, "auth": {"jwt": issuer.settings()}, **gateway}
    return {"mcpServers": {"up": {"url": stub.url, **(server or {})}}, "gateway": settings}


async def sessions_of_calls(stub: StubServer) -> list[str]:
    return [request["session"] for request in await stub.of("tools/call")]


async def test_p20_a_refreshed_token_continues_the_same_session(issuer: Issuer, stub: StubServer) -> None:
    async with serving(document(issuer, stub)) as gateway, asyncio.timeout(20):
        async with Wire(gateway.url, issuer.headers("alice", jti="1")) as client:
            await client.initialize()
            await client.call("up__counter")
            await client.call("up__counter", {}, issuer.headers("alice", jti="2"))
        assert len(set(await sessions_of_calls(stub))) == 1


async def test_i3_another_principals_token_does_not_open_a_session(issuer: Issuer, stub: StubServer) -> None:
    async with serving(document(issuer, stub)) as gateway, asyncio.timeout(20):
        async with Wire(gateway.url, issuer.headers("alice")) as client:
            await client.initialize()
            for stranger in (issuer.headers("bob"), issuer.headers("alice", org="acme")):
                reply = await client.post(client.request_message("ping"), stranger)
                assert reply.status == 404


async def test_an_expired_token_gets_401_and_is_told_where_to_get_another(issuer: Issuer, stub: StubServer) -> None:
    async with serving(document(issuer, stub)) as gateway, asyncio.timeout(20):
        async with Wire(gateway.url, issuer.headers("alice", exp=int(time.time()) - 3600)) as client:
            reply = await client.initialize()
        assert reply.status == 401
        challenge = reply.headers["www-authenticate"]
        assert 'error="invalid_token"' in challenge
        assert f'resource_metadata="{PUBLIC}/.well-known/oauth-protected-resource/mcp"' in challenge


async def test_protected_resource_metadata_is_served_at_both_well_known_places(issuer: Issuer, stub: StubServer) -> None:
    async with serving(document(issuer, stub)) as gateway, httpx.AsyncClient(trust_env=False) as http:
        for path, resource in (("", PUBLIC), ("/mcp", f"{PUBLIC}/mcp"), ("/servers/up/mcp", f"{PUBLIC}/servers/up/mcp")):
            answer = await http.get(f"{gateway.base}/.well-known/oauth-protected-resource{path}")
            assert answer.status_code == 200
            assert answer.json()["resource"] == resource
            assert answer.json()["authorization_servers"] == [ISSUER]


async def test_lists_show_only_what_a_caller_may_use_and_the_rest_is_unknown(
    issuer: Issuer, stubs: Callable[[], StubServer]
) -> None:
    first, second = stubs(), stubs()
    rules = [
        {"who": {"group": "staff"}, "servers": ["up"], "tools": ["echo", "count*"]},
        {"who": {"group": "admins"}, "servers": ["*"]},
    ]
    both = document(issuer, first, access=rules)
    both["mcpServers"]["other"] = {"url": second.url}
    async with serving(both) as gateway, asyncio.timeout(20):
        async with Wire(gateway.url, issuer.headers("alice", groups=["staff"])) as client:
            await client.initialize()
            tools = {tool["name"] for tool in (await client.request("tools/list"))["result"]["tools"]}
            assert tools == {"up__echo", "up__counter"}
            assert "result" in await client.call("up__echo", {"text": "x"})
            forbidden = (await client.call("up__slow"))["error"]
            unknown = (await client.call("up__no_such_tool"))["error"]
            assert forbidden["code"] == unknown["code"] == -32602
            assert forbidden["message"].replace("slow", "") == unknown["message"].replace("no_such_tool", "")
            assert (await client.call("other__echo"))["error"]["code"] == -32602
            admin = issuer.headers("alice", groups=["admins"])
            assert "result" in await client.call("up__slow", {"ms": 1}, admin), "groups are those of the token that came"
        async with Wire(gateway.server("other"), issuer.headers("alice", groups=["staff"])) as client:
            assert (await client.initialize()).status == 404
        assert "tools/call" not in [request["rpc"] for request in (await second.seen())["requests"]]


async def test_i1_each_caller_is_shown_upstream_with_a_credential_of_its_own(stub: StubServer) -> None:
    (alice, alices_hash), (bob, bobs_hash), (carol, carols_hash) = new_token(), new_token(), new_token()
    server = {
        "url": stub.url,
        "headers": {"X-Api-Key": "everybodys"},
        "credentials": {
            "alice": {"headers": {"X-Api-Key": "alices"}},
            "tenant:acme": {"headers": {"X-Api-Key": "acmes"}},
        },
    }
    tokens = {"alice": alices_hash, "bob": {"hash": bobs_hash, "tenant": "acme"}, "carol": carols_hash}
    async with serving({"mcpServers": {"up": server}, "gateway": {"auth": {"tokens": tokens}}}) as gateway, asyncio.timeout(20):
        for token, key in ((alice, "alices"), (bob, "acmes"), (carol, "everybodys")):
            async with Wire(gateway.url, {"Authorization": f"Bearer {token}"}) as client:
                await client.initialize()
                seen = json.dumps(await client.call("up__whoami"))
                assert key in seen
                assert token not in seen
        assert len(set(await sessions_of_calls(stub))) == 3


async def test_c8_a_principal_over_its_rate_is_told_when_to_come_back_and_nobody_else_is(stub: StubServer) -> None:
    (alice, alices_hash), (bob, bobs_hash) = new_token(), new_token()
    settings = {
        "auth": {"tokens": {"alice": alices_hash, "bob": bobs_hash}},
        "limits": {"calls_per_second": 0.001, "calls_burst": 3},
    }
    async with serving({"mcpServers": {"up": {"url": stub.url}}, "gateway": settings}) as gateway, asyncio.timeout(20):
        async with Wire(gateway.url, {"Authorization": f"Bearer {alice}"}) as client:
            await client.initialize()
            assert "result" in await client.call("up__echo", {"text": "x"})
            reply = await client.post(client.request_message("ping"))
            assert reply.status == 429
            assert int(reply.headers["retry-after"]) >= 1
            assert "calls_per_second" in reply.message["error"]["message"]
        async with Wire(gateway.url, {"Authorization": f"Bearer {bob}"}) as client:
            assert (await client.initialize()).status == 200
