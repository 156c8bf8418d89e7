"""A token endpoint over HTTP (RFC 6749, section 5). Nothing of what was sent or received appears in its errors."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcpgateway.auth.oauth import TokenResponse
from mcpgateway.errors import CredentialFailed, UpstreamError
from mcpgateway.upstream.http import HttpClient, Response

ANSWER_SECONDS = 10.0
MAX_ANSWER_BYTES = 64 * 1024

_FORM = b"content-type: application/x-www-form-urlencoded\r\naccept: application/json\r\n"
_token = re.compile(r"[!-~]+")

_ADVICE = {
    "access_denied": "this caller may not use it",
    "invalid_client": "check client_id, client_secret and auth_method of oauth",
    "invalid_grant": "the caller's token is not accepted there; it may have expired",
    "invalid_request": "something in oauth is missing for it, or not known to it",
    "invalid_scope": "check scope of oauth",
    "invalid_target": "check resource and audience of oauth",
    "server_error": "it is in trouble",
    "temporarily_unavailable": "it is in trouble",
    "unauthorized_client": "the client is not registered there for this grant",
    "unsupported_grant_type": "it does not know this grant",
    "unsupported_token_type": "it does not exchange such tokens",
}
"""The registered errors. Others, and descriptions, are not shown: servers are known to repeat the request in them."""


class HttpTokenEndpoint:
    """The token endpoint of one upstream; an `auth.oauth.TokenEndpoint`. Follows no redirect: a secret would go along."""

    def __init__(self, upstream: str, url: str, http: HttpClient) -> None:
        parts = urlsplit(url)
        self._upstream = upstream
        self._host = parts.netloc
        self._path = parts._replace(scheme="", netloc="", path=parts.path or "/", fragment="").geturl().encode("ascii")
        self._http = http

    def __repr__(self) -> str:
        return f"<HttpTokenEndpoint {self._host} for {self._upstream}>"

    async def ask(self, form: bytes, headers: bytes) -> TokenResponse:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                response = await self._http.send(b"POST", self._path, headers + _FORM, form, ANSWER_SECONDS)
        except TimeoutError as error:
            raise self._failed(f"no answer within {ANSWER_SECONDS:g} s") from error
        except UpstreamError as error:
            raise self._failed(str(error).removeprefix(f"upstream {error.upstream!r}: ")) from error
        return self._read(response)

    async def aclose(self) -> None:
        await self._http.aclose()

    def _read(self, response: Response) -> TokenResponse:
        if response.streaming:
            response.close()
            raise self._failed("it answered with an event stream")
        answer = _object_in(response.body)
        if response.status != 200:
            raise self._failed(_explained(response.status, answer.get("error")))
        token, kind = answer.get("access_token"), answer.get("token_type")
        if not isinstance(token, str) or not _token.fullmatch(token):
            raise self._failed("its answer holds no access_token")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise self._failed("its token is no Bearer token")
        return TokenResponse(token, self._life(answer.get("expires_in")))

    def _life(self, stated: object) -> float | None:
        if stated is None:
            return None
        try:
            life = float(stated) if isinstance(stated, int | float | str) else -1.0
        except (ValueError, OverflowError):
            life = -1.0
        if not 0 <= life < float("inf"):
            raise self._failed("its expires_in is no number of seconds")
        return life

    def _failed(self, why: str) -> CredentialFailed:
        return CredentialFailed(self._upstream, f"no token from its token endpoint at {self._host}: {why}")


def _object_in(body: bytes) -> dict[str, Any]:
    """The JSON object in an answer; {} where it is none."""
    if len(body) > MAX_ANSWER_BYTES:
        return {}
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _explained(status: int, error: object) -> str:
    if isinstance(error, str) and error in _ADVICE:
        return f"it refused with HTTP {status}, {error}: {_ADVICE[error]}"
    return f"it answered with HTTP {status}"
