"""The token endpoint's client, and credentials from it, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs

import pytest

from mcpgateway.auth.credentials import StaticCredentials
from mcpgateway.auth.oauth import OAuthCredentials, TokenResponse
from mcpgateway.auth.principals import Principal
from mcpgateway.config.values import OAuthConfig
from mcpgateway.errors import CredentialFailed
from mcpgateway.runtime import Sweep
from mcpgateway.upstream import token_endpoint
from mcpgateway.upstream.connection import Origin
from mcpgateway.upstream.token_endpoint import HttpTokenEndpoint
from tests.fakes.clock import FakeClock
from tests.servers.token_endpoint import TokenServer

ALICE = Principal("https://idp.example", "alice")
PLANTED = "planted-secret"


@pytest.fixture
async def server() -> AsyncIterator[TokenServer]:
    async with TokenServer() as started:
        yield started


@asynccontextmanager
async def endpoint_at(url: str, clock: FakeClock | None = None) -> AsyncIterator[tuple[HttpTokenEndpoint, Sweep]]:
    sweep = Sweep(clock)
    made = HttpTokenEndpoint("crm", url, Origin("crm", url, sweep))
    try:
        yield made, sweep
    finally:
        await made.aclose()
        sweep.close()


@pytest.fixture
async def endpoint(server: TokenServer) -> AsyncIterator[HttpTokenEndpoint]:
    async with endpoint_at(server.url) as (made, _):
        yield made


@pytest.fixture
async def tokens(server: TokenServer, endpoint: HttpTokenEndpoint, clock: FakeClock) -> AsyncIterator[OAuthCredentials]:
    settings = OAuthConfig(token_url=server.url, client_id="gw", client_secret=PLANTED)
    made = OAuthCredentials("crm", "https://crm.example/mcp", settings, StaticCredentials(), endpoint, clock)
    yield made
    await made.aclose()


async def asked(endpoint: HttpTokenEndpoint) -> TokenResponse:
    async with asyncio.timeout(5):
        return await endpoint.ask(b"grant_type=client_credentials", b"authorization: Basic %b\r\n" % PLANTED.encode())


async def refusal(endpoint: HttpTokenEndpoint) -> str:
    with pytest.raises(CredentialFailed) as caught:
        await asked(endpoint)
    assert not caught.value.connection_level
    return str(caught.value)


async def test_the_form_is_posted_and_the_token_read(server: TokenServer, endpoint: HttpTokenEndpoint) -> None:
    assert await asked(endpoint) == TokenResponse("token-1", 3600.0)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/token?realm=main")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["authorization"] == f"Basic {PLANTED}"
    assert parse_qs(request.body.decode()) == {"grant_type": ["client_credentials"]}


@pytest.mark.parametrize(("stated", "read"), [(None, None), ("3600", 3600.0), (0, 0.0), (1.5, 1.5)])
async def test_the_life_of_a_token_is_read_as_servers_write_it(
    server: TokenServer, endpoint: HttpTokenEndpoint, stated: object, read: float | None
) -> None:
    server.expires_in = stated
    assert (await asked(endpoint)).expires_in == read


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, {"error": "invalid_client"}, "HTTP 401, invalid_client: check client_id"),
        (400, {"error": "invalid_target"}, "HTTP 400, invalid_target: check resource"),
        (400, {"error": PLANTED, "error_description": PLANTED}, "it answered with HTTP 400"),
        (400, {"error": [PLANTED]}, "it answered with HTTP 400"),
        (307, {"access_token": PLANTED, "token_type": "Bearer"}, "it answered with HTTP 307"),
        (500, PLANTED, "it answered with HTTP 500"),
        (200, PLANTED, "its answer holds no access_token"),
        (200, {"token_type": "Bearer"}, "its answer holds no access_token"),
        (200, {"access_token": f"{PLANTED}\r\nx: y", "token_type": "Bearer"}, "its answer holds no access_token"),
        (200, {"access_token": 5, "token_type": "Bearer"}, "its answer holds no access_token"),
        (200, {"access_token": PLANTED}, "its token is no Bearer token"),
        (200, {"access_token": PLANTED, "token_type": "N_A"}, "its token is no Bearer token"),
        (200, {"access_token": PLANTED, "token_type": "Bearer", "expires_in": -1}, "its expires_in is no number"),
        (200, {"access_token": PLANTED, "token_type": "Bearer", "expires_in": "nan"}, "its expires_in is no number"),
        (200, {"access_token": PLANTED, "token_type": "Bearer", "expires_in": [PLANTED]}, "its expires_in is no number"),
        (200, {"access_token": "x" * 70_000, "token_type": "Bearer"}, "its answer holds no access_token"),
    ],
)
async def test_p21_any_other_answer_is_a_clear_error_without_what_it_held(
    server: TokenServer, endpoint: HttpTokenEndpoint, status: int, body: object, said: str
) -> None:
    server.answer = status, json.dumps(body).encode()
    text = await refusal(endpoint)
    assert f"upstream 'crm': no token from its token endpoint at 127.0.0.1:{server.port}: it" in text
    assert said in text and PLANTED not in text and "realm" not in text


async def test_an_endpoint_that_is_not_there_is_a_failure_of_the_credential_not_of_the_upstream(server: TokenServer) -> None:
    await server.__aexit__()
    async with endpoint_at(server.url) as (endpoint, _):
        text = await refusal(endpoint)
    assert "cannot connect to 127.0.0.1" in text and text.count("upstream 'crm'") == 1


async def test_an_endpoint_that_never_answers_fails_in_time(server: TokenServer, clock: FakeClock) -> None:
    server.answers.clear()
    async with endpoint_at(server.url, clock) as (endpoint, sweep):
        waiting = asyncio.ensure_future(refusal(endpoint))
        async with asyncio.timeout(5):
            await server.asked.wait()
        clock.advance(token_endpoint.ANSWER_SECONDS + 1)
        sweep.expire_due()
        async with asyncio.timeout(5):
            assert "no sign of life for 10 s" in await waiting


async def test_fifty_callers_of_one_principal_make_one_request(server: TokenServer, tokens: OAuthCredentials) -> None:
    server.answers.clear()
    waiting = [asyncio.ensure_future(tokens.obtain(ALICE, ())) for _ in range(50)]
    async with asyncio.timeout(5):
        await server.asked.wait()
        waiting[0].cancel()
        server.answers.set()
        found = await asyncio.gather(*waiting[1:])
    assert {each.lines for each in found} == {b"authorization: Bearer token-1\r\n"}
    assert len(server.requests) == 1 and waiting[0].cancelled()


async def test_a_token_is_renewed_before_it_expires_and_once_when_it_is_refused(
    server: TokenServer, tokens: OAuthCredentials, clock: FakeClock
) -> None:
    async with asyncio.timeout(5):
        await tokens.obtain(ALICE, ())
        clock.advance(3571)
        assert tokens.ready(ALICE, ()) is None
        second = await tokens.obtain(ALICE, ())
        assert second.lines == b"authorization: Bearer token-2\r\n"
        assert [tokens.refused(ALICE, second) for _ in range(3)] == [True] * 3
        found = await asyncio.gather(*(tokens.obtain(ALICE, ()) for _ in range(3)))
    assert {each.lines for each in found} == {b"authorization: Bearer token-3\r\n"} and len(server.requests) == 3
    assert server.form() == {"grant_type": "client_credentials", "resource": "https://crm.example/mcp"}


async def test_an_endpoint_in_trouble_is_not_asked_once_per_call(
    server: TokenServer, tokens: OAuthCredentials, clock: FakeClock
) -> None:
    server.answer = 503, b""
    async with asyncio.timeout(5):
        for _ in range(10):
            with pytest.raises(CredentialFailed, match="HTTP 503"):
                await tokens.obtain(ALICE, ())
    assert len(server.requests) == 1
    clock.advance(1)
    server.answer = None
    async with asyncio.timeout(5):
        assert (await tokens.obtain(ALICE, ())).lines == b"authorization: Bearer token-1\r\n"
