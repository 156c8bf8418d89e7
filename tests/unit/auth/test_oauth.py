"""Tokens for upstreams, obtained from an endpoint that the test holds in its hand."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from urllib.parse import parse_qs

import pytest

from mcpgateway import runtime
from mcpgateway.auth import oauth
from mcpgateway.auth.credentials import Credential, StaticCredentials
from mcpgateway.auth.oauth import OAuthCredentials, TokenResponse
from mcpgateway.auth.principals import ANONYMOUS, Principal
from mcpgateway.config.values import CallerHeaders, OAuthConfig
from mcpgateway.errors import CredentialFailed, CredentialMissing
from tests.fakes.clock import FakeClock

ALICE = Principal("https://idp.example", "alice", "acme")
BOB = Principal("https://idp.example", "bob", "acme")
URL = "https://crm.example/mcp?key=in-the-query"
SETTINGS = OAuthConfig(token_url="https://idp.example/token", client_id="gw", client_secret="c/secret", scope="read")
EXCHANGE = OAuthConfig(
    grant="token_exchange", token_url="https://idp.example/token", client_id="gw", client_secret="c/secret", audience="crm"
)
ALICES = [(b"accept", b"*/*"), (b"authorization", b"Bearer subject-token")]


class FakeEndpoint:
    """A `TokenEndpoint`. Clear `answers` to keep requests waiting; set `error` to fail."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[dict[str, list[str]], bytes]] = asyncio.Queue()
        self.answers = asyncio.Event()
        self.answers.set()
        self.error = ""
        self.expires_in: float | None = 3600.0
        self.count = 0
        self.closed = False

    async def ask(self, form: bytes, headers: bytes) -> TokenResponse:
        self.count += 1
        number = self.count
        self.asked.put_nowait((parse_qs(form.decode(), strict_parsing=True), headers))
        await self.answers.wait()
        if self.error:
            raise CredentialFailed("crm", self.error)
        return TokenResponse(f"token-{number}", self.expires_in)

    async def aclose(self) -> None:
        self.closed = True

    async def next(self) -> tuple[dict[str, list[str]], bytes]:
        async with asyncio.timeout(5):
            return await self.asked.get()


@pytest.fixture
def endpoint() -> FakeEndpoint:
    return FakeEndpoint()


@pytest.fixture
async def tokens(endpoint: FakeEndpoint, clock: FakeClock) -> AsyncIterator[OAuthCredentials]:
    made = credentials(endpoint, clock)
    yield made
    await made.aclose()


def credentials(
    endpoint: FakeEndpoint, clock: FakeClock, settings: OAuthConfig = SETTINGS, headers: StaticCredentials | None = None
) -> OAuthCredentials:
    return OAuthCredentials("crm", URL, settings, headers or StaticCredentials([("X-Version", "3")]), endpoint, clock)


async def obtained(tokens: OAuthCredentials, principal: Principal | None = ALICE) -> Credential:
    async with asyncio.timeout(5):
        return await tokens.obtain(principal, ALICES)


def token_in(credential: Credential | None) -> str:
    assert credential is not None
    assert credential.lines.startswith(b"x-version: 3\r\n") and credential.lines.count(b"\r\n") == 2
    return credential.lines.decode().rpartition("Bearer ")[2].strip()


async def test_a_token_is_fetched_once_and_then_at_hand(tokens: OAuthCredentials, endpoint: FakeEndpoint) -> None:
    assert tokens.ready(ALICE, ()) is None
    fetched = await obtained(tokens)
    assert token_in(fetched) == "token-1"
    assert tokens.ready(ALICE, ()) is fetched and await obtained(tokens) is fetched
    assert endpoint.count == 1


async def test_fifty_who_wait_make_one_request(tokens: OAuthCredentials, endpoint: FakeEndpoint) -> None:
    endpoint.answers.clear()
    waiting = [asyncio.ensure_future(obtained(tokens)) for _ in range(50)]
    await endpoint.next()
    endpoint.answers.set()
    async with asyncio.timeout(5):
        found = await asyncio.gather(*waiting)
    assert {token_in(each) for each in found} == {"token-1"} and endpoint.count == 1


async def test_principals_have_tokens_and_identities_of_their_own(tokens: OAuthCredentials) -> None:
    found = [await obtained(tokens, who) for who in (ALICE, BOB, None)]
    assert [token_in(each) for each in found] == ["token-1", "token-2", "token-3"]
    assert len({each.identity for each in found}) == 3
    assert token_in(tokens.ready(ALICE, ())) == "token-1"


async def test_p20_i10_a_renewed_token_leaves_the_identity_as_it_was(tokens: OAuthCredentials, clock: FakeClock) -> None:
    first = await obtained(tokens)
    clock.advance(3600)
    second = await obtained(tokens)
    assert token_in(second) == "token-2" and second.identity == first.identity
    assert tokens.identity(ALICE, ()) == first.identity


@pytest.mark.parametrize(("life", "skew"), [(3600.0, 30.0), (60.0, 6.0), (None, 30.0)])
async def test_a_token_is_renewed_shortly_before_it_expires(
    tokens: OAuthCredentials, endpoint: FakeEndpoint, clock: FakeClock, life: float | None, skew: float
) -> None:
    endpoint.expires_in = life
    await obtained(tokens)
    clock.advance((life or oauth.UNSTATED_SECONDS) - skew - 0.5)
    assert tokens.ready(ALICE, ()) is not None
    clock.advance(1)
    assert tokens.ready(ALICE, ()) is None
    assert token_in(await obtained(tokens)) == "token-2"


async def test_the_life_of_a_token_begins_when_it_was_asked_for(
    tokens: OAuthCredentials, endpoint: FakeEndpoint, clock: FakeClock
) -> None:
    endpoint.expires_in = 60.0
    endpoint.answers.clear()
    waiting = asyncio.ensure_future(obtained(tokens))
    await endpoint.next()
    clock.advance(60)
    endpoint.answers.set()
    assert token_in(await waiting) == "token-1"
    assert tokens.ready(ALICE, ()) is None


async def test_a_refused_token_is_replaced_exactly_once_by_all_who_used_it(
    tokens: OAuthCredentials, endpoint: FakeEndpoint
) -> None:
    old = await obtained(tokens)
    for _ in range(20):
        assert tokens.refused(ALICE, old)
        assert token_in(await obtained(tokens)) == "token-2"
    assert endpoint.count == 2


async def test_a_token_that_replaced_a_refused_one_is_not_replaced_at_once(
    tokens: OAuthCredentials, endpoint: FakeEndpoint, clock: FakeClock
) -> None:
    assert tokens.refused(ALICE, await obtained(tokens))
    second = await obtained(tokens)
    assert not tokens.refused(ALICE, second) and not tokens.refused(ALICE, second)
    assert await obtained(tokens) is second and endpoint.count == 2
    clock.advance(oauth.SETTLE_SECONDS)
    assert tokens.refused(ALICE, second)
    assert token_in(await obtained(tokens)) == "token-3"


async def test_p10_one_callers_refused_token_leaves_the_others_theirs(tokens: OAuthCredentials) -> None:
    alices, bobs = await obtained(tokens), await obtained(tokens, BOB)
    assert tokens.refused(ALICE, alices)
    assert tokens.ready(ALICE, ()) is None and tokens.ready(BOB, ()) is bobs


async def test_a_waiter_that_is_cancelled_ends_the_request_for_nobody(tokens: OAuthCredentials, endpoint: FakeEndpoint) -> None:
    endpoint.answers.clear()
    first, second = (asyncio.ensure_future(obtained(tokens)) for _ in range(2))
    await endpoint.next()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    endpoint.answers.set()
    assert token_in(await second) == "token-1" and endpoint.count == 1


async def test_a_request_that_nobody_waits_for_any_more_still_counts(tokens: OAuthCredentials, endpoint: FakeEndpoint) -> None:
    endpoint.answers.clear()
    only = asyncio.ensure_future(obtained(tokens))
    await endpoint.next()
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    endpoint.answers.set()
    assert token_in(await obtained(tokens)) == "token-1" and endpoint.count == 1


async def test_a_failure_stands_for_a_moment_and_for_its_principal_alone(
    tokens: OAuthCredentials, endpoint: FakeEndpoint, clock: FakeClock
) -> None:
    endpoint.error = "it is down"
    for _ in range(3):
        with pytest.raises(CredentialFailed, match="upstream 'crm': it is down") as caught:
            await obtained(tokens)
        assert not caught.value.connection_level and caught.value.refused_before_dispatch
    assert endpoint.count == 1
    endpoint.error = ""
    assert token_in(await obtained(tokens, BOB)) == "token-2"
    clock.advance(oauth.FAILURE_SECONDS)
    assert token_in(await obtained(tokens)) == "token-3"


async def test_each_waiter_has_an_exception_of_its_own(tokens: OAuthCredentials, endpoint: FakeEndpoint) -> None:
    endpoint.error = "it is down"
    async with asyncio.timeout(5):
        found = await asyncio.gather(*(tokens.obtain(ALICE, ()) for _ in range(3)), return_exceptions=True)
    assert len({id(each) for each in found}) == 3 and endpoint.count == 1
    assert all(isinstance(each, CredentialFailed) for each in found)


async def test_a_token_that_cannot_be_renewed_is_used_while_it_lasts(
    tokens: OAuthCredentials, endpoint: FakeEndpoint, clock: FakeClock
) -> None:
    first = await obtained(tokens)
    endpoint.error = "it is down"
    clock.advance(3580)
    assert await obtained(tokens) is first and tokens.ready(ALICE, ()) is first and endpoint.count == 2
    clock.advance(2)
    assert await obtained(tokens) is first and endpoint.count == 3
    clock.advance(18)
    with pytest.raises(CredentialFailed):
        await obtained(tokens)


async def test_a_refused_token_is_never_used_again_though_no_other_comes(
    tokens: OAuthCredentials, endpoint: FakeEndpoint
) -> None:
    assert tokens.refused(ALICE, await obtained(tokens))
    endpoint.error = "it is down"
    with pytest.raises(CredentialFailed):
        await obtained(tokens)


async def test_p16_ten_thousand_principals_leave_no_more_than_the_limit(tokens: OAuthCredentials) -> None:
    for number in range(10_000):
        await obtained(tokens, Principal("https://idp.example", str(number)))
    assert repr(tokens) == f"<OAuthCredentials for crm: {oauth.REMEMBERED} principals>"


async def test_p16_tokens_that_expired_make_room_for_new_ones(tokens: OAuthCredentials, clock: FakeClock) -> None:
    for number in range(100):
        await obtained(tokens, Principal("https://idp.example", str(number)))
    clock.advance(3600)
    for number in range(100, 200):
        await obtained(tokens, Principal("https://idp.example", str(number)))
    assert repr(tokens) == "<OAuthCredentials for crm: 100 principals>"


async def test_who_used_its_token_last_keeps_it(endpoint: FakeEndpoint, tokens: OAuthCredentials) -> None:
    await obtained(tokens)
    for number in range(oauth.REMEMBERED):
        await obtained(tokens, Principal("https://idp.example", str(number)))
        assert token_in(tokens.ready(ALICE, ())) == "token-1"


async def test_client_credentials_are_asked_for_in_the_form_of_the_standard(
    tokens: OAuthCredentials, endpoint: FakeEndpoint
) -> None:
    await obtained(tokens)
    form, headers = await endpoint.next()
    assert form == {"grant_type": ["client_credentials"], "scope": ["read"], "resource": ["https://crm.example/mcp"]}
    assert headers == b"authorization: Basic %b\r\n" % b64encode(b"gw:c%2Fsecret")


async def test_the_secret_goes_into_the_form_where_the_endpoint_wants_it_there(
    endpoint: FakeEndpoint, clock: FakeClock
) -> None:
    posting = OAuthConfig(client_id="gw", client_secret="c/secret", auth_method="client_secret_post", resource="")
    await obtained(credentials(endpoint, clock, posting))
    form, headers = await endpoint.next()
    assert form == {"grant_type": ["client_credentials"], "client_id": ["gw"], "client_secret": ["c/secret"]}
    assert headers == b""


async def test_the_callers_own_token_is_what_is_exchanged(endpoint: FakeEndpoint, clock: FakeClock) -> None:
    found = await obtained(credentials(endpoint, clock, EXCHANGE))
    form, _ = await endpoint.next()
    assert form == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
        "subject_token": ["subject-token"],
        "subject_token_type": ["urn:ietf:params:oauth:token-type:access_token"],
        "resource": ["https://crm.example/mcp"],
        "audience": ["crm"],
    }
    assert b"subject-token" not in found.lines


async def test_the_gateway_itself_exchanges_nothing(endpoint: FakeEndpoint, clock: FakeClock) -> None:
    await obtained(credentials(endpoint, clock, EXCHANGE), None)
    form, _ = await endpoint.next()
    assert form == {"grant_type": ["client_credentials"], "resource": ["https://crm.example/mcp"]}


@pytest.mark.parametrize(
    ("principal", "headers"),
    [
        (Principal("static", "alice"), ALICES),
        (ANONYMOUS, ALICES),
        (ALICE, []),
        (ALICE, [(b"authorization", b"Basic subject-token")]),
        (ALICE, [(b"authorization", b"Bearer")]),
    ],
)
async def test_i5_only_a_verified_token_of_an_issuer_is_exchanged(
    endpoint: FakeEndpoint, clock: FakeClock, principal: Principal, headers: list[tuple[bytes, bytes]]
) -> None:
    tokens = credentials(endpoint, clock, EXCHANGE)
    with pytest.raises(CredentialMissing, match=r"upstream 'crm': .*gateway\.auth\.jwt"):
        await tokens.obtain(principal, headers)
    assert endpoint.count == 0 and tokens.ready(principal, headers) is None


async def test_headers_of_the_caller_go_beside_its_token(endpoint: FakeEndpoint, clock: FakeClock) -> None:
    alices = CallerHeaders((("X-Version", "4"),), subject="alice", issuer=ALICE.issuer)
    headers = StaticCredentials([("X-Version", "3")], ["X-Team"], upstream="crm", callers=[alices], required=True)
    tokens = credentials(endpoint, clock, SETTINGS, headers)
    red, blue = [await tokens.obtain(ALICE, [(b"x-team", team)]) for team in (b"red", b"blue")]
    assert red.lines == b"x-version: 4\r\nx-team: red\r\nauthorization: Bearer token-1\r\n"
    assert red.identity != blue.identity and endpoint.count == 1
    assert tokens.identity(ALICE, [(b"x-team", b"blue")]) == blue.identity
    with pytest.raises(CredentialMissing):
        await tokens.obtain(BOB, ())
    assert endpoint.count == 1


@pytest.mark.parametrize(
    "change",
    [{"client_secret": "other"}, {"client_id": "other"}, {"token_url": "https://other"}, {"scope": "write"}, {"resource": "x"}],
)
def test_u11_other_settings_are_another_identity(endpoint: FakeEndpoint, clock: FakeClock, change: dict[str, str]) -> None:
    fields = {"token_url": SETTINGS.token_url, "client_id": "gw", "client_secret": "c/secret", "scope": "read"}
    one, same, other = (
        credentials(endpoint, clock, OAuthConfig(**fields_of)).identity(ALICE, ())  # type: ignore[arg-type]
        for fields_of in (fields, fields, fields | change)
    )
    assert one == same != other


async def test_i10_other_headers_beside_a_token_leave_the_token_and_whoever_waits_for_one(
    endpoint: FakeEndpoint, clock: FakeClock
) -> None:
    alices = CallerHeaders((("X-Version", "4"),), subject="alice", issuer=ALICE.issuer)
    old = credentials(endpoint, clock)
    before = await obtained(old)
    endpoint.answers.clear()
    waiting = asyncio.ensure_future(obtained(old, BOB))
    await endpoint.next()
    new = old.beside(StaticCredentials([("X-Version", "3")], callers=[alices]))
    after = new.ready(ALICE, ())
    assert after is not None and after.lines == b"x-version: 4\r\nauthorization: Bearer token-1\r\n"
    assert after.identity == new.identity(ALICE, ()) != before.identity == old.identity(ALICE, ())
    joining = asyncio.ensure_future(obtained(new, BOB))
    endpoint.answers.set()
    assert (await waiting).lines == (await joining).lines and endpoint.count == 2
    assert new.identity(BOB, ()) == old.identity(BOB, ()) and not endpoint.closed
    await new.aclose()


async def test_closing_ends_what_is_being_fetched_and_says_so(endpoint: FakeEndpoint, clock: FakeClock) -> None:
    tokens = credentials(endpoint, clock)
    endpoint.answers.clear()
    waiting = asyncio.ensure_future(obtained(tokens))
    await endpoint.next()
    await tokens.aclose()
    with pytest.raises(CredentialFailed, match="no longer uses this configuration"):
        await waiting
    assert endpoint.closed and "token for crm" not in runtime.running_tasks()


async def test_p21_no_token_or_secret_is_in_a_repr_an_error_or_a_log(
    endpoint: FakeEndpoint, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tokens = credentials(endpoint, clock, EXCHANGE)
    found = await obtained(tokens)
    shown = f"{tokens!r} {found!r} {EXCHANGE!r} {TokenResponse('token-1', None)!r} {found.identity}"
    endpoint.error = "it is down"
    clock.advance(3599)
    await obtained(tokens)
    clock.advance(10)
    with pytest.raises(CredentialFailed) as caught:
        await obtained(tokens)
    shown += f"{caught.value!r} {caught.value} {caplog.text}"
    assert "the old token is used while it lasts" in caplog.text
    assert not [secret for secret in ("token-1", "subject-token", "c/secret", "in-the-query") if secret in shown]
