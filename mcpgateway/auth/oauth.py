"""Tokens for upstreams: OAuth 2.1 client credentials, and RFC 8693 token exchange for the caller's own token.

A token is kept per principal, in memory, until shortly before it expires. No token and no secret appears in a repr, a log
line or an error.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from base64 import b64encode
from collections import OrderedDict
from itertools import islice
from typing import NamedTuple, Protocol
from urllib.parse import quote_plus, urlencode, urlsplit

from mcpgateway import runtime
from mcpgateway.auth.credentials import Credential, RawHeaders, StaticCredentials, digest_of
from mcpgateway.auth.principals import ANONYMOUS, Principal
from mcpgateway.auth.tokens import ISSUER as STATIC_ISSUER
from mcpgateway.config.values import OAuthConfig
from mcpgateway.errors import CredentialFailed, CredentialMissing
from mcpgateway.runtime import Clock

_log = logging.getLogger("mcpgateway.credentials")

REMEMBERED = 4096
"""Principals whose token is kept; the one used longest ago makes room."""
SKEW_SECONDS = 30.0
"""A token is renewed this long before it expires, or a tenth of its life, whichever is shorter."""
UNSTATED_SECONDS = 300.0
"""The life of a token whose endpoint doesn't say how long it is."""
FAILURE_SECONDS = 1.0
"""How long a failure stands for further calls, so that an endpoint in trouble is not asked once per call."""
SETTLE_SECONDS = 30.0
"""A new token that replaced a refused one and is refused within this time is not replaced: the next would fare no better."""

MADE_OF_ONE = 64
"""Credentials kept per token: more than one only where client headers are forwarded."""

_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


class TokenResponse(NamedTuple):
    """What a token endpoint gave: a bearer token fit for a header line, and its life if it said so."""

    access_token: str
    expires_in: float | None

    def __repr__(self) -> str:
        return f"<TokenResponse good for {self.expires_in} s>"


class TokenEndpoint(Protocol):
    """Where tokens come from."""

    async def ask(self, form: bytes, headers: bytes) -> TokenResponse:
        """The answer to a token request, within a bounded time. Raises CredentialFailed, and nothing else."""

    async def aclose(self) -> None: ...


class _Token:
    """A token, and the credentials made of it by the identity of the headers beside it."""

    __slots__ = ("expires_at", "line", "made", "obtained_at", "refresh_at", "replaces_refused")

    def __init__(self, answer: TokenResponse, asked_at: float, *, replaces_refused: bool) -> None:
        life = UNSTATED_SECONDS if answer.expires_in is None else answer.expires_in
        self.line = b"authorization: Bearer %b\r\n" % answer.access_token.encode("ascii")
        self.obtained_at = asked_at
        self.expires_at = asked_at + life
        self.refresh_at = self.expires_at - min(SKEW_SECONDS, life / 10)
        self.replaces_refused = replaces_refused
        self.made: dict[str, Credential] = {}

    def __repr__(self) -> str:
        return f"<_Token until {self.expires_at}>"


class _Slot:
    """What is known of one principal's token."""

    __slots__ = ("failed_until", "failure", "fetching", "refused", "token")

    def __init__(self) -> None:
        self.token: _Token | None = None
        self.fetching: asyncio.Task[_Token | str] | None = None
        self.refused = False
        """Whether the token before was refused by the upstream."""
        self.failure = ""
        self.failed_until = 0.0

    def __repr__(self) -> str:
        return f"<_Slot {self.token!r}{' fetching' if self.fetching is not None else ''}>"


class OAuthCredentials:
    """`Credentials` whose Authorization is a token from `endpoint`; what `headers` gives is sent beside it."""

    lasting = False

    def __init__(
        self,
        upstream: str,
        url: str,
        settings: OAuthConfig,
        headers: StaticCredentials,
        endpoint: TokenEndpoint,
        clock: Clock | None = None,
    ) -> None:
        self._upstream = upstream
        self._settings = settings
        self._resource = settings.resource if settings.resource is not None else _without_query(url)
        self._headers = headers
        self._endpoint = endpoint
        self._now = (clock or Clock()).now
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        # The secret is hashed in, so that another one means other sessions; so is all else that decides what a token is for.
        self._generation = digest_of(
            part.encode()
            for part in (
                settings.grant,
                settings.token_url,
                settings.client_id,
                settings.client_secret,
                settings.scope,
                settings.audience,
                self._resource,
            )
        ).encode()

    def __repr__(self) -> str:
        return f"<OAuthCredentials for {self._upstream}: {len(self._slots)} principals>"

    def beside(self, headers: StaticCredentials) -> OAuthCredentials:
        """The same tokens beside other headers. Both share what is kept and what is being fetched: closing one closes it."""
        other = copy.copy(self)
        other._headers = headers
        return other

    def ready(self, principal: Principal | None, client_headers: RawHeaders) -> Credential | None:
        key = principal.id if principal is not None else ""
        slot = self._slots.get(key)
        if slot is None or slot.token is None or self._now() >= slot.token.refresh_at:
            return None
        base = self._headers.ready(principal, client_headers)
        if base is None:
            return None
        self._slots.move_to_end(key)
        return self._over(slot.token, base, key)

    async def obtain(self, principal: Principal | None, client_headers: RawHeaders) -> Credential:
        base = self._headers.required_of(principal, client_headers)
        key = principal.id if principal is not None else ""
        slot = self._slot(key)
        token = slot.token
        if token is None or self._now() >= token.refresh_at:
            token = await self._fetched(slot, principal, client_headers)
        return self._over(token, base, key)

    def refused(self, principal: Principal | None, credential: Credential) -> bool:
        slot = self._slots.get(principal.id if principal is not None else "")
        if slot is None or slot.token is None or not credential.lines.endswith(slot.token.line):
            return True  # a call that began earlier found out already: there is a newer token, or none
        token = slot.token
        if token.replaces_refused and self._now() - token.obtained_at < SETTLE_SECONDS:
            return False
        slot.token = None
        slot.refused = True
        return True

    def identity(self, principal: Principal | None, client_headers: RawHeaders) -> str:
        base = self._headers.required_of(principal, client_headers)
        return self._identity(base, principal.id if principal is not None else "")

    async def aclose(self) -> None:
        fetching = [slot.fetching for slot in self._slots.values()]
        self._slots.clear()
        for task in fetching:
            await runtime.end_task(task)
        await self._endpoint.aclose()

    def _over(self, token: _Token, base: Credential, key: str) -> Credential:
        made = token.made.get(base.identity)
        if made is None:
            if len(token.made) >= MADE_OF_ONE:
                token.made.clear()
            made = token.made[base.identity] = Credential(base.lines + token.line, self._identity(base, key))
        return made

    def _identity(self, base: Credential, key: str) -> str:
        return digest_of((base.identity.encode(), self._generation, key.encode("utf-8", "surrogatepass")))

    def _slot(self, key: str) -> _Slot:
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = _Slot()
            self._make_room()
        self._slots.move_to_end(key)
        return slot

    def _make_room(self) -> None:
        """Forget what expired, oldest use first, and more where there is too much. What is being fetched stays."""
        now = self._now()
        for key, slot in list(islice(self._slots.items(), 8)):
            expired = slot.token is not None and now >= slot.token.expires_at
            if slot.fetching is None and (expired or len(self._slots) > REMEMBERED):
                del self._slots[key]

    async def _fetched(self, slot: _Slot, principal: Principal | None, client_headers: RawHeaders) -> _Token:
        if slot.fetching is None:
            if self._now() < slot.failed_until:
                raise CredentialFailed(self._upstream, slot.failure)
            form = self._form(principal, client_headers)
            slot.fetching = runtime.spawn(self._fetch(slot, form), f"token for {self._upstream}")
        task = slot.fetching
        # Waiting for a task, unlike awaiting it, leaves it running when the waiter is cancelled.
        await asyncio.wait([task])
        outcome = "the gateway no longer uses this configuration; try again" if task.cancelled() else task.result()
        if isinstance(outcome, str):
            raise CredentialFailed(self._upstream, outcome)  # one for each waiter: a shared one would gather tracebacks
        return outcome

    async def _fetch(self, slot: _Slot, form: bytes) -> _Token | str:
        """The new token, or why there is none."""
        asked_at = self._now()
        try:
            answer = await self._endpoint.ask(form, self._client_headers())
        except CredentialFailed as error:
            return self._failed(slot, str(error).removeprefix(f"upstream {error.upstream!r}: "))
        finally:
            slot.fetching = None
        slot.token = _Token(answer, asked_at, replaces_refused=slot.refused)
        slot.refused = False
        return slot.token

    def _failed(self, slot: _Slot, why: str) -> _Token | str:
        now = self._now()
        slot.failure, slot.failed_until = why, now + FAILURE_SECONDS
        token = slot.token
        if token is None or now >= token.expires_at:
            return why
        token.refresh_at = min(slot.failed_until, token.expires_at)
        _log.warning("upstream %r: the old token is used while it lasts: %s", self._upstream, why)
        return token

    def _client_headers(self) -> bytes:
        if self._settings.auth_method != "client_secret_basic":
            return b""
        pair = f"{quote_plus(self._settings.client_id)}:{quote_plus(self._settings.client_secret)}"
        return b"authorization: Basic %b\r\n" % b64encode(pair.encode())

    def _form(self, principal: Principal | None, client_headers: RawHeaders) -> bytes:
        """The token request. Raises CredentialMissing where the caller has no token that could be exchanged."""
        settings = self._settings
        fields = {"grant_type": "client_credentials"}
        # The gateway itself has no caller's token: it asks for one of its own.
        if settings.grant == "token_exchange" and principal is not None:
            subject = self._subject_token(principal, client_headers)
            fields = {"grant_type": _EXCHANGE, "subject_token": subject, "subject_token_type": _ACCESS_TOKEN}
            fields["audience"] = settings.audience
        fields |= {"scope": settings.scope, "resource": self._resource}
        if settings.auth_method == "client_secret_post":
            fields |= {"client_id": settings.client_id, "client_secret": settings.client_secret}
        return urlencode({name: value for name, value in fields.items() if value}).encode()

    def _subject_token(self, principal: Principal, client_headers: RawHeaders) -> str:
        # A static token is known to this gateway alone, and an anonymous caller's was never verified: neither leaves it.
        if principal.issuer != STATIC_ISSUER and principal != ANONYMOUS:
            for name, value in client_headers:
                scheme, _, token = value.partition(b" ")
                if name == b"authorization" and scheme.lower() == b"bearer" and token:
                    return token.strip().decode("latin-1")
        raise CredentialMissing(
            self._upstream,
            "its tokens are exchanged for the caller's own, and yours is none of an authorization server; "
            "call with a token of the issuer in gateway.auth.jwt",
        )


def _without_query(url: str) -> str:
    """What names the upstream to a token endpoint. People keep API keys in queries, and those are not for it."""
    return urlsplit(url)._replace(query="", fragment="").geturl()
