"""JWTs: which are let in, whose they are, and when an issuer is asked for its keys."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from mcpgateway.auth.authenticators import Authenticators
from mcpgateway.auth.jwks import FRESH_SECONDS, PAUSE_SECONDS, RETRY_SECONDS, FetchedKeys
from mcpgateway.auth.jwt import MAX_TOKEN_BYTES, JwtTokens
from mcpgateway.auth.keys import KeySet, parse_keys
from mcpgateway.auth.principals import Principal
from mcpgateway.auth.tokens import StaticTokens, new_token
from mcpgateway.config.values import ASYMMETRIC, SYMMETRIC, JwtConfig, TokenConfig
from mcpgateway.errors import ConfigError, InvalidToken, KeysUnavailable, TokenExpired
from tests.fakes.clock import FakeClock

ISSUER = "https://id.example.com"
HERE = "https://mcp.example.com"
JWKS_URL = f"{ISSUER}/jwks.json"
NOW = 1_800_000_000
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
EC_OTHER = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
RSA_PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def ec_jwk(key: ec.EllipticCurvePrivateKey, kid: str | None, **more: Any) -> dict[str, Any]:
    named = {} if kid is None else {"kid": kid}
    return ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | named | more


def rsa_jwk(kid: str, **more: Any) -> dict[str, Any]:
    found = RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True)
    del found["key_ops"]
    return found | {"kid": kid} | more


def token(key: Any = EC_KEY, kid: str | None = "k1", algorithm: str = "ES256", header: Any = None, **changed: Any) -> bytes:
    """A token that is let in, but for what is changed; None leaves a claim out."""
    claims = {"iss": ISSUER, "aud": HERE, "sub": "alice", "exp": NOW + 600} | changed
    claims = {name: value for name, value in claims.items() if value is not None}
    headers = ({} if kid is None else {"kid": kid}) | (header or {})
    return jwt.encode(claims, key, algorithm, headers).encode()


class FakeIssuer:
    """Serves a JWKS, counts how often it is asked, and is slow or down on request."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.down = False
        self.body: bytes | None = None
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def fetch(self, url: str) -> bytes:
        assert url == JWKS_URL
        self.asked += 1
        self.was_asked.set()
        await self.may_answer.wait()
        if self.down:
            raise OSError("connection refused")
        return self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()


class Setting:
    """One issuer, its tokens, and both clocks."""

    def __init__(self, *keys: dict[str, Any], remembered: int = 10_000, **settings: Any) -> None:
        self.issuer = FakeIssuer(*(keys or (ec_jwk(EC_KEY, "k1"),)))
        self.clock = FakeClock()
        self.wall = FakeClock(NOW)
        config = JwtConfig(**{"issuer": ISSUER, "audience": (HERE,), "jwks_url": JWKS_URL} | settings)
        self.tokens = JwtTokens([config], self.issuer.fetch, clock=self.clock, wall=self.wall.now, remembered=remembered)

    def known(self, token: bytes) -> Principal | None:
        return self.tokens.known(token, self.wall.now())

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    async def refusal(self, token: bytes) -> str:
        async with asyncio.timeout(5):
            with pytest.raises(InvalidToken) as caught:
                await self.tokens.verify(token)
        assert len(token) < 10 or token.decode("latin-1") not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def setting() -> Setting:
    return Setting()


async def test_a_token_stands_for_issuer_subject_and_tenant_with_groups() -> None:
    setting = Setting(tenant_claim="org", groups_claim="roles")
    found = await setting.tokens.verify(token(org="acme", roles=["dev", "ops", "dev"]))
    assert found == Principal(ISSUER, "alice", "acme", ("dev", "ops"))
    assert await setting.tokens.verify(token(roles="dev")) == Principal(ISSUER, "alice", "", ("dev",))


async def test_another_claim_may_be_the_subject() -> None:
    setting = Setting(subject_claim="email")
    assert (await setting.tokens.verify(token(email="a@example.com"))).subject == "a@example.com"
    assert await setting.refusal(token()) == "the token has no email"


async def test_p20_a_refreshed_token_is_the_same_principal(setting: Setting) -> None:
    first = await setting.tokens.verify(token(jti="1"))
    second = await setting.tokens.verify(token(jti="2", exp=NOW + 900))
    assert first == second and first.id == second.id


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: token(exp=None), "the token has no exp"),
        (lambda: token(exp=NOW - 31), "the token has expired"),
        (lambda: token(exp="soon"), "the token's exp is no time"),
        (lambda: token(exp=True), "the token's exp is no time"),
        (lambda: token(exp=10**400), "the token's exp is no time"),
        (lambda: token(exp=float("inf")), "the token's exp is no time"),
        (lambda: token(exp=float("nan")), "the token's exp is no time"),
        (lambda: token(nbf=NOW + 31), "the token is not valid yet"),
        (lambda: token(nbf="now"), "the token's nbf is no time"),
        (lambda: token(aud=None), "the token has no aud"),
        (lambda: token(aud="https://other.example.com"), "the token is for another audience"),
        (lambda: token(aud=HERE + "/"), "the token is for another audience"),
        (lambda: token(aud=["a", "b"]), "the token is for another audience"),
        (lambda: token(aud={"a": HERE}), "the token is for another audience"),
        (lambda: token(iss=None), "the token's issuer is not accepted here"),
        (lambda: token(iss=ISSUER + "/"), "the token's issuer is not accepted here"),
        (lambda: token(sub=None), "the token has no sub"),
        (lambda: token(sub=""), "the token has no sub"),
        (lambda: token(sub=7), "the token is malformed"),
        (lambda: token(sub="\ud800"), "the token's sub is no text"),
        (lambda: token(EC_OTHER), "the token's signature is wrong"),
        (lambda: token(kid="k9"), "the token is signed with a key that is not its issuer's"),
        (lambda: token(RSA_KEY, algorithm="RS256"), "the token's key is not for the algorithm it names"),
        (lambda: token(None, algorithm="none"), "the token's algorithm is not accepted here"),
        (lambda: token("s" * 64, algorithm="HS256"), "the token's algorithm is not accepted here"),
        (lambda: token(header={"crit": ["exp"], "exp": 1}), "the token's header is not acceptable"),
        (lambda: token(header={"crit": ["b64"], "b64": True}), "the token's header is not acceptable"),
        (lambda: token(filler="x" * MAX_TOKEN_BYTES), "the token is larger than 16 KiB"),
        (lambda: b"", "the token is none that is known here, and no JWT"),
        (lambda: b"a.b.c", "the token is none that is known here, and no JWT"),
        (lambda: b"\xff\xfe.\x00.", "the token is none that is known here, and no JWT"),
        (lambda: token() + b".more", "the token is none that is known here, and no JWT"),
        (lambda: token()[:-10], "the token's signature is wrong"),
    ],
)
async def test_a_token_that_is_not_right_is_refused_with_the_reason(setting: Setting, made: Any, said: str) -> None:
    bad = made()
    assert await setting.refusal(bad) == said
    assert setting.known(bad) is None


async def test_a_demanded_extension_is_refused_even_where_the_library_knows_it(setting: Setting) -> None:
    head, body, _ = token().split(b".")
    header = base64.urlsafe_b64encode(b'{"alg":"ES256","kid":"k1","crit":["b64"],"b64":true}').rstrip(b"=")
    signed = header + b"." + body
    signature = ECAlgorithm(ECAlgorithm.SHA256).sign(signed, EC_KEY)
    forged = signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")
    assert head != header
    assert await setting.refusal(forged) == "the token demands extensions (crit), and none is known here"


@pytest.mark.parametrize(
    "claims",
    [{"org": ["acme"]}, {"org": 5}, {"org": "\udc00"}, {"roles": [1]}, {"roles": ["\udc00"]}, {"roles": {"dev": True}}],
)
async def test_a_tenant_or_group_of_another_type_is_refused(claims: dict[str, Any]) -> None:
    said = await Setting(tenant_claim="org", groups_claim="roles").refusal(token(**claims))
    assert said in ("the token's org is no text", "the token's roles is no list of texts")


async def test_a_public_key_does_not_verify_what_was_signed_with_it_as_a_secret() -> None:
    """The algorithm a token names must be one of its key's own kind."""
    config = JwtConfig(issuer=ISSUER, audience=(HERE,), key_file="k.pem", keys=RSA_PEM, algorithms=ASYMMETRIC + SYMMETRIC)
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    body = token().split(b".")[1]
    signature = hmac.new(RSA_PEM, head + b"." + body, hashlib.sha256).digest()
    forged = b".".join((head, body, base64.urlsafe_b64encode(signature).rstrip(b"=")))
    tokens = JwtTokens([config], FakeIssuer().fetch, wall=FakeClock(NOW).now)
    with pytest.raises(InvalidToken, match="not for the algorithm it names"):
        await tokens.verify(forged)


@pytest.mark.parametrize("late", [{"exp": NOW - 29}, {"nbf": NOW + 30}, {"iat": NOW + 500}])
async def test_clocks_may_differ_by_the_leeway(setting: Setting, late: dict[str, Any]) -> None:
    assert (await setting.tokens.verify(token(**late))).subject == "alice"


async def test_the_leeway_is_a_setting() -> None:
    assert await Setting(leeway_seconds=0).refusal(token(exp=NOW)) == "the token has expired"


async def test_one_audience_of_several_is_enough(setting: Setting) -> None:
    assert (await setting.tokens.verify(token(aud=["https://x", HERE]))).subject == "alice"
    several = Setting(audience=(HERE, f"{HERE}/mcp"))
    assert (await several.tokens.verify(token(aud=f"{HERE}/mcp"))).subject == "alice"


async def test_a_verified_token_is_known_without_waiting_until_it_expires(setting: Setting) -> None:
    fresh = token(exp=NOW + 60)
    assert setting.known(fresh) is None
    principal = await setting.tokens.verify(fresh)
    assert setting.known(fresh) == principal
    setting.wall.advance(89)
    assert setting.known(fresh) == principal
    setting.wall.advance(1)
    assert setting.known(fresh) is None
    with pytest.raises(TokenExpired):
        await setting.tokens.verify(fresh)
    assert setting.issuer.asked == 1


async def test_p16_only_so_many_tokens_are_remembered_the_least_used_forgotten_first() -> None:
    setting = Setting(remembered=3)
    made = [token(jti=str(number)) for number in range(4)]
    for each in made[:3]:
        await setting.tokens.verify(each)
    assert setting.known(made[0]) is not None
    await setting.tokens.verify(made[3])
    assert [setting.known(each) is not None for each in made] == [True, False, True, True]


async def test_a_known_token_differs_from_one_that_shares_all_but_the_signature(setting: Setting) -> None:
    good = token()
    await setting.tokens.verify(good)
    assert setting.known(good[:-1] + (b"A" if good[-1:] != b"A" else b"B")) is None


async def test_keys_are_fetched_once_for_all_who_wait(setting: Setting) -> None:
    setting.issuer.may_answer.clear()
    async with asyncio.timeout(5):
        waiting = [asyncio.create_task(setting.tokens.verify(token(jti=str(number)))) for number in range(20)]
        await setting.issuer.was_asked.wait()
        setting.issuer.may_answer.set()
        assert {principal.subject for principal in await asyncio.gather(*waiting)} == {"alice"}
    assert setting.issuer.asked == 1


async def test_p3_one_that_gives_up_waiting_leaves_the_keys_to_the_others(setting: Setting) -> None:
    setting.issuer.may_answer.clear()
    async with asyncio.timeout(5):
        hasty, patient = (asyncio.create_task(setting.tokens.verify(token(jti=name))) for name in "ab")
        await setting.issuer.was_asked.wait()
        hasty.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hasty
        setting.issuer.may_answer.set()
        assert (await patient).subject == "alice"


async def test_a_new_key_is_taken_up_when_a_token_names_it(setting: Setting) -> None:
    await setting.tokens.verify(token())
    setting.issuer.keys.append(ec_jwk(EC_OTHER, "k2"))
    setting.advance(PAUSE_SECONDS)
    assert (await setting.tokens.verify(token(EC_OTHER, "k2"))).subject == "alice"
    assert setting.issuer.asked == 2


async def test_made_up_keys_do_not_hammer_the_issuer(setting: Setting) -> None:
    for number in range(50):
        await setting.refusal(token(EC_OTHER, f"made-up-{number}"))
    assert setting.issuer.asked == 1
    setting.advance(PAUSE_SECONDS - 1)
    await setting.refusal(token(EC_OTHER, "made-up"))
    assert setting.issuer.asked == 1
    setting.advance(1)
    await setting.refusal(token(EC_OTHER, "made-up"))
    assert setting.issuer.asked == 2


TOO_LARGE = json.dumps({"keys": [ec_jwk(EC_OTHER, "k2")]}).encode() + b" " * (1 << 20)


@pytest.mark.parametrize("body", [None, b"<html>", b"{}", b'{"keys": []}', b"[" * 100_000, TOO_LARGE])
async def test_keys_stay_in_force_when_a_fetch_fails(setting: Setting, body: bytes | None) -> None:
    await setting.tokens.verify(token(jti="1"))
    setting.issuer.down, setting.issuer.body = body is None, body
    setting.advance(PAUSE_SECONDS)
    with pytest.raises(KeysUnavailable):
        await setting.tokens.verify(token(EC_OTHER, "k2"))
    assert (await setting.tokens.verify(token(jti="2"))).subject == "alice"


async def test_an_issuer_that_is_down_is_no_fault_of_the_token_and_is_asked_again_soon(setting: Setting) -> None:
    setting.issuer.down = True
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            await setting.tokens.verify(token())
    assert setting.issuer.asked == 1
    setting.issuer.down = False
    setting.advance(RETRY_SECONDS)
    assert (await setting.tokens.verify(token())).subject == "alice"


async def test_an_issuer_that_never_answers_holds_a_caller_up_for_a_bounded_time() -> None:
    issuer = FakeIssuer()
    issuer.may_answer.clear()
    keys = FetchedKeys(JWKS_URL, ASYMMETRIC, issuer.fetch, FakeClock(), fetch_seconds=0.01)
    async with asyncio.timeout(5):
        with pytest.raises(KeysUnavailable):
            await keys.find("k1", "ES256")


async def test_old_keys_are_renewed_while_nobody_waits_and_a_withdrawn_one_stops_counting() -> None:
    setting = Setting(ec_jwk(EC_KEY, "k1"), ec_jwk(EC_OTHER, "k2"))
    stolen, good = token(exp=NOW + 9000), token(EC_OTHER, "k2", exp=NOW + 9000)
    for each in (stolen, good):
        await setting.tokens.verify(each)
    del setting.issuer.keys[0]
    setting.advance(FRESH_SECONDS)
    assert setting.known(stolen) is None, "known for no longer than keys are fresh"
    setting.issuer.was_asked.clear()
    setting.issuer.may_answer.clear()
    async with asyncio.timeout(5):
        assert (await setting.tokens.verify(stolen)).subject == "alice", "by the old keys, as nobody waits for the new"
        await setting.issuer.was_asked.wait()
        setting.issuer.may_answer.set()
        await setting.refusal(token(kid="k9"))  # waits for the same fetch
    assert setting.known(stolen) is None
    assert "signed with a key that is not its issuer's" in await setting.refusal(stolen)
    assert (await setting.tokens.verify(good)).subject == "alice"


async def test_a_fetch_under_way_ends_when_the_gateway_does(setting: Setting) -> None:
    setting.issuer.may_answer.clear()
    async with asyncio.timeout(5):
        waiting = asyncio.create_task(setting.tokens.verify(token()))
        await setting.issuer.was_asked.wait()
        await setting.tokens.aclose()
        with pytest.raises(InvalidToken):
            await waiting


async def test_a_token_that_names_no_key_is_taken_where_there_is_but_one(setting: Setting) -> None:
    assert (await setting.tokens.verify(token(kid=None))).subject == "alice"
    several = Setting(ec_jwk(EC_KEY, "k1"), ec_jwk(EC_OTHER, "k2"))
    assert await several.refusal(token(kid=None)) == "the token names no key (kid), and its issuer has several"


async def test_a_single_key_without_name_is_that_of_every_token() -> None:
    assert (await Setting(ec_jwk(EC_KEY, None)).tokens.verify(token(kid="any"))).subject == "alice"


async def test_each_kind_of_key_verifies_what_it_signed() -> None:
    setting = Setting(ec_jwk(EC_KEY, "e"), rsa_jwk("r"), OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True) | {"kid": "o"})
    for key, kid, algorithm in [
        (EC_KEY, "e", "ES256"),
        (RSA_KEY, "r", "RS256"),
        (RSA_KEY, "r", "PS512"),
        (ED_KEY, "o", "EdDSA"),
    ]:
        assert (await setting.tokens.verify(token(key, kid, algorithm))).subject == "alice"


async def test_a_key_that_names_its_algorithm_is_for_no_other() -> None:
    setting = Setting(rsa_jwk("r", alg="RS256"))
    await setting.tokens.verify(token(RSA_KEY, "r", "RS256"))
    assert await setting.refusal(token(RSA_KEY, "r", "PS256")) == "the token's key is not for the algorithm it names"


@pytest.mark.parametrize(
    "more", [{"use": "enc"}, {"key_ops": ["encrypt"]}, {"key_ops": 5}, {"kid": 5}, {"x": "AAAA"}, {"x": 5}]
)
async def test_a_key_that_is_not_for_signatures_or_malformed_is_passed_over(more: dict[str, Any]) -> None:
    setting = Setting(ec_jwk(EC_KEY, "k1"), ec_jwk(EC_OTHER, "k2") | more)
    await setting.tokens.verify(token())
    assert await setting.refusal(token(EC_OTHER, "k2")) == "the token is signed with a key that is not its issuer's"


def test_a_key_without_its_parts_takes_no_other_along() -> None:
    bare = [{"kty": "oct"}, {"kty": "OKP", "crv": "Ed25519"}, {"kty": "EC", "crv": "P-256"}, {"kty": "RSA"}, {}, 5]
    assert len(parse_keys(json.dumps({"keys": [*bare, ec_jwk(EC_KEY, "k1")]}).encode(), ASYMMETRIC + SYMMETRIC)) == 1


def test_a_key_too_short_to_be_safe_is_not_used() -> None:
    short = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
    secret = {"kty": "oct", "k": base64.urlsafe_b64encode(b"short").decode()}
    for key in (short, secret):
        with pytest.raises(ValueError, match="holds no key that can be used"):
            parse_keys(json.dumps({"keys": [key]}).encode(), ASYMMETRIC + SYMMETRIC)


@pytest.mark.parametrize(
    ("key", "algorithm"), [(RSA_KEY, "RS256"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")], ids=["rsa", "ec", "ed25519"]
)
async def test_keys_may_come_from_a_pem_file(key: Any, algorithm: str) -> None:
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    setting = Setting(jwks_url="", key_file="key.pem", keys=pem)
    assert (await setting.tokens.verify(token(key, "any", algorithm))).subject == "alice"
    assert await setting.refusal(token(EC_OTHER)) in (
        "the token's signature is wrong",
        "the token's key is not for the algorithm it names",
    )


async def test_a_shared_secret_counts_only_where_it_is_asked_for() -> None:
    secret = b"s" * 32
    jwk = {"kty": "oct", "kid": "h", "k": base64.urlsafe_b64encode(secret).decode().rstrip("=")}
    keys = json.dumps({"keys": [jwk, ec_jwk(EC_KEY, "k1")]}).encode()
    signed = token(secret, "h", "HS256")
    asked = Setting(jwks_url="", key_file="keys.json", keys=keys, algorithms=("HS256",))
    assert (await asked.tokens.verify(signed)).subject == "alice"
    default = Setting(jwks_url="", key_file="keys.json", keys=keys)
    assert await default.refusal(signed) == "the token's algorithm is not accepted here"
    assert secret.decode() not in repr(asked.tokens) + repr(JwtConfig(keys=keys)) and jwk["k"] not in repr(JwtConfig(keys=keys))


PRIVATE_PEM = EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "keys", [b"", b"nonsense", b"[" * 100_000, b"{}", b'{"keys": 5}', b'{"keys": [1]}', PRIVATE_PEM, b"-----BEGIN X"]
)
def test_a_key_file_without_a_usable_key_refuses_to_start(keys: bytes) -> None:
    with pytest.raises(
        ConfigError, match=r"gateway\.auth\.jwt: the key_file of https://id\.example\.com, keys\.json, "
    ) as error:
        Setting(jwks_url="", key_file="keys.json", keys=keys)
    assert not keys or keys.decode() not in str(error.value)


def test_a_key_for_none_of_the_algorithms_that_are_accepted_refuses_to_start() -> None:
    with pytest.raises(ConfigError, match="holds no key that can be used with ES256"):
        Setting(jwks_url="", key_file="key.pem", keys=RSA_PEM, algorithms=("ES256",))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
JWK_FIELDS = st.sampled_from("kty crv x y n e d k alg use key_ops kid p q dp dq qi oth".split())
JWK_VALUES = JSON | st.sampled_from("RSA EC OKP oct P-256 Ed25519 ES256 RS256 HS256 AQAB AAAA sig verify".split())


@settings(deadline=None)
@given(st.binary() | st.dictionaries(JWK_FIELDS, JWK_VALUES).map(lambda key: json.dumps({"keys": [key]}).encode()))
def test_whatever_a_jwks_holds_it_is_keys_or_an_error_of_ours(data: bytes) -> None:
    try:
        assert isinstance(parse_keys(data, ASYMMETRIC + SYMMETRIC), KeySet)
    except ValueError as error:
        assert str(error)


@settings(deadline=None)
@given(
    st.binary(max_size=60)
    | st.tuples(JSON, JSON).map(
        lambda parts: b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (*parts, ""))
    )
)
async def test_whatever_a_token_holds_it_is_refused_in_words(data: bytes) -> None:
    assert await Setting().refusal(data)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("alg kid typ crit b64 jwk jku x5c".split()), JSON))
async def test_whatever_a_header_demands_it_is_refused_in_words(header: dict[str, Any]) -> None:
    parts = (header, {"iss": ISSUER, "aud": HERE, "exp": NOW + 5, "sub": "alice"}, "")
    forged = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    assert await Setting().refusal(forged)


async def test_each_issuer_vouches_only_for_its_own_tokens() -> None:
    other = "https://other.example.com"
    configs = [
        JwtConfig(issuer=ISSUER, audience=(HERE,), key_file="a", keys=json.dumps(ec_jwk(EC_KEY, "k1")).encode()),
        JwtConfig(issuer=other, audience=(HERE,), key_file="b", keys=json.dumps(ec_jwk(EC_OTHER, "k1")).encode()),
    ]
    tokens = JwtTokens(configs, FakeIssuer().fetch, wall=FakeClock(NOW).now)
    mine, theirs = await tokens.verify(token()), await tokens.verify(token(EC_OTHER, iss=other))
    assert mine.id != theirs.id and mine.subject == theirs.subject
    with pytest.raises(InvalidToken, match="signature is wrong"):
        await tokens.verify(token(EC_OTHER))


async def test_p21_no_repr_shows_a_token(setting: Setting) -> None:
    good = token()
    await setting.tokens.verify(good)
    assert repr(setting.tokens) == "<JwtTokens of 1 issuers, 1 known>"


async def test_i5_static_tokens_come_first_and_a_jwt_is_never_believed_unverified(setting: Setting) -> None:
    plain, hashed = new_token()
    static = StaticTokens([TokenConfig(name="bob", hash=hashed.removeprefix("sha256:"))])
    both = Authenticators(static, setting.tokens, setting.wall.now)
    assert both.known(plain.encode()) == await both.verify(plain.encode()) == Principal("static", "bob")
    good = token()
    assert both.known(good) is None
    assert await both.verify(good) == both.known(good) == Principal(ISSUER, "alice")
    with pytest.raises(InvalidToken, match="signature is wrong"):
        await both.verify(token(EC_OTHER))
    with pytest.raises(InvalidToken, match="and no JWT"):
        await both.verify(b"mcpgw_wrong")


async def test_without_issuers_only_static_tokens_are_let_in() -> None:
    none = Authenticators(StaticTokens([]), JwtTokens([], FakeIssuer().fetch))
    with pytest.raises(InvalidToken, match="issuer is not accepted"):
        await none.verify(token())
