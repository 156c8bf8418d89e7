"""JWTs as bearer tokens: who one stands for. The library does the cryptography; here is what we accept, and for how long.

A token is verified once; then it is known by its SHA-256 for a while, so that a call costs a hash and a look-up.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any

import jwt

from mcpgateway.auth.jwks import FRESH_SECONDS, Fetch, FetchedKeys, FixedKeys, Keys
from mcpgateway.auth.keys import parse_keys
from mcpgateway.auth.principals import Principal
from mcpgateway.config.values import JwtConfig
from mcpgateway.errors import ConfigError, InvalidToken, TokenExpired
from mcpgateway.runtime import Clock

MAX_TOKEN_BYTES = 16 * 1024
REMEMBERED = 10_000

_UNCHECKED: Any = {"verify_signature": False}
_TOO_FAR = 1e12  # seconds: well beyond any calendar, and far from where floats lose them


class JwtTokens:
    """The tokens of the configured issuers, each standing for a principal. `wall` is the time of day, in seconds."""

    def __init__(
        self,
        issuers: Iterable[JwtConfig],
        fetch: Fetch,
        *,
        clock: Clock | None = None,
        wall: Callable[[], float] = time.time,
        remembered: int = REMEMBERED,
    ) -> None:
        self._known: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        self._remembered = remembered
        self._wall = wall
        # What a withdrawn key had vouched for is checked again; that may ask a little more than needed, and seldom.
        self._issuers = {
            each.issuer: Issuer(each, _keys_of(each, fetch, clock or Clock(), self._known.clear)) for each in issuers
        }

    def __repr__(self) -> str:
        return f"<JwtTokens of {len(self._issuers)} issuers, {len(self._known)} known>"

    def known(self, token: bytes, now: float) -> Principal | None:
        """Whose token this is, if it was verified lately. `now` is the time of day, in seconds."""
        if len(token) > MAX_TOKEN_BYTES:
            return None
        digest = sha256(token).digest()
        found = self._known.get(digest)
        if found is None:
            return None
        until, principal = found
        if now >= until:
            del self._known[digest]
            return None
        self._known.move_to_end(digest)
        return principal

    async def verify(self, token: bytes) -> Principal:
        """Whose token this is. Raises InvalidToken (TokenExpired), KeysUnavailable."""
        if len(token) > MAX_TOKEN_BYTES:
            raise InvalidToken("the token is larger than 16 KiB")
        header, claimed = _look_into(token)
        issuer = self._issuers.get(claimed)
        if issuer is None:
            raise InvalidToken("the token's issuer is not accepted here")
        principal, until = await issuer.verify(token, header, self._wall)
        self._remember(token, until, principal)
        return principal

    async def aclose(self) -> None:
        """End what is under way."""
        for issuer in self._issuers.values():
            await issuer.keys.aclose()

    def _remember(self, token: bytes, until: float, principal: Principal) -> None:
        # Never for longer than keys stay fresh: else calls with known tokens alone would never lead to a look at the keys.
        self._known[sha256(token).digest()] = (min(until, self._wall() + FRESH_SECONDS), principal)
        while len(self._known) > self._remembered:
            self._known.popitem(last=False)


class Issuer:
    """What one issuer's tokens must be like."""

    def __init__(self, config: JwtConfig, keys: Keys) -> None:
        self.keys = keys
        self._config = config

    def __repr__(self) -> str:
        return f"<Issuer {self._config.issuer!r}>"

    async def verify(self, token: bytes, header: dict[str, Any], wall: Callable[[], float]) -> tuple[Principal, float]:
        """Whose token this is, and until when it may be used. Raises InvalidToken, KeysUnavailable."""
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._config.algorithms:
            raise InvalidToken("the token's algorithm is not accepted here")
        if "crit" in header:
            raise InvalidToken("the token demands extensions (crit), and none is known here")
        key = await self.keys.find(header.get("kid"), algorithm)
        claims = self._decode(token, key, algorithm)
        until = self._check_times(claims, wall())
        return self._principal(claims), until

    def _decode(self, token: bytes, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
        """The claims, with signature, issuer and audience checked. Times are ours to check: the clock is handed in."""
        try:
            return jwt.decode(
                token,
                key,
                [algorithm],
                {"require": ["exp", "iss", "aud"], "verify_exp": False, "verify_nbf": False, "verify_iat": False},
                audience=self._config.audience,
                issuer=self._config.issuer,
            )
        except jwt.InvalidSignatureError as error:
            raise InvalidToken("the token's signature is wrong") from error
        except jwt.InvalidAudienceError as error:
            raise InvalidToken("the token is for another audience") from error
        except jwt.MissingRequiredClaimError as error:
            raise InvalidToken(f"the token has no {error.claim}") from error
        except jwt.PyJWTError as error:
            raise InvalidToken("the token is malformed") from error

    def _check_times(self, claims: dict[str, Any], now: float) -> float:
        """Until when the token may be used. Raises TokenExpired, InvalidToken."""
        leeway = self._config.leeway_seconds
        until = _instant(claims, "exp") + leeway
        if now >= until:
            raise TokenExpired("the token has expired")
        if claims.get("nbf") is not None and now < _instant(claims, "nbf") - leeway:
            raise InvalidToken("the token is not valid yet")
        return until

    def _principal(self, claims: dict[str, Any]) -> Principal:
        config = self._config
        subject = _text(claims, config.subject_claim)
        if not subject:
            raise InvalidToken(f"the token has no {config.subject_claim}")
        tenant = _text(claims, config.tenant_claim) if config.tenant_claim else ""
        return Principal(config.issuer, subject, tenant, _texts(claims, config.groups_claim) if config.groups_claim else ())


def _keys_of(config: JwtConfig, fetch: Fetch, clock: Clock, withdrawn: Callable[[], None]) -> Keys:
    if config.jwks_url:
        return FetchedKeys(config.jwks_url, config.algorithms, fetch, clock, withdrawn)
    try:
        return FixedKeys(parse_keys(config.keys, config.algorithms))
    except ValueError as error:
        raise ConfigError(f"gateway.auth.jwt: the key_file of {config.issuer}, {config.key_file}, {error}") from error


def _look_into(token: bytes) -> tuple[dict[str, Any], str]:
    """Header and issuer as the token claims them, for choosing how to verify it. Raises InvalidToken."""
    try:
        decoded = jwt.decode_complete(token, options=_UNCHECKED)
    except jwt.DecodeError as error:
        raise InvalidToken("the token is none that is known here, and no JWT") from error
    except jwt.PyJWTError as error:  # a kid that is no text, an extension that must be understood
        raise InvalidToken("the token's header is not acceptable") from error
    issuer = decoded["payload"].get("iss")
    return decoded["header"], issuer if isinstance(issuer, str) else ""


def _instant(claims: dict[str, Any], claim: str) -> float:
    found = claims[claim]
    if isinstance(found, bool) or not isinstance(found, int | float) or not -_TOO_FAR < found < _TOO_FAR:
        raise InvalidToken(f"the token's {claim} is no time")
    return float(found)


def _text(claims: dict[str, Any], claim: str) -> str:
    """A claim's text, '' where there is none."""
    found = claims.get(claim)
    if found is None:
        return ""
    if not isinstance(found, str) or not _is_unicode(found):
        raise InvalidToken(f"the token's {claim} is no text")
    return found


def _texts(claims: dict[str, Any], claim: str) -> tuple[str, ...]:
    """A claim's texts: it may be a list of them, or one."""
    found = claims.get(claim)
    listed = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(each, str) and _is_unicode(each) for each in listed):
        raise InvalidToken(f"the token's {claim} is no list of texts")
    return tuple(dict.fromkeys(listed))


def _is_unicode(text: str) -> bool:
    """JSON can name half a surrogate pair, which no encoding can carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
