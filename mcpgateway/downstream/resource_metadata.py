"""What tells a client where to get a token: protected resource metadata (RFC 9728), and the challenge that points to it.

Each endpoint is a resource of its own, described at `/.well-known/oauth-protected-resource/<path>`; the gateway as a whole
is described at the same place without a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote, urlsplit

import msgspec

from mcpgateway.errors import InvalidToken, Unauthenticated

WELL_KNOWN = "/.well-known/oauth-protected-resource"
REALM = "mcpgateway"

_not_quotable = re.compile(r'[^\x20-\x7e]|["\\]')


def document(public_url: str, path: str, issuers: Sequence[str]) -> bytes:
    """The metadata of the endpoint at `path`, or of the whole gateway for ''. `issuers` give out tokens for it."""
    return msgspec.json.encode(
        {
            "resource": public_url + quote(path),
            "authorization_servers": list(issuers),
            "bearer_methods_supported": ["header"],
            "resource_name": "MCP gateway",
        }
    )


def documents(public_url: str, paths: Iterable[str], issuers: Sequence[str]) -> dict[str, bytes]:
    """Every path at which metadata is served, and what is said there.

    Where the public URL has a path of its own, a reverse proxy may or may not hand it on, so both are answered.
    """
    base = urlsplit(public_url).path
    found: dict[str, bytes] = {}
    for path in ("", *paths):
        body = document(public_url, path, issuers)
        found[WELL_KNOWN + path] = found[WELL_KNOWN + base + path] = body
    return found


def metadata_url(public_url: str, path: str) -> str:
    """Where the metadata of the endpoint at `path` is found: the well-known part stands between host and path."""
    parts = urlsplit(public_url)
    return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{parts.path}{quote(path)}"


def challenge(error: Unauthenticated, metadata: str = "") -> bytes:
    """The value of WWW-Authenticate. A request that brought no token is told of no error, as RFC 6750 has it.

    `metadata` is where the endpoint's metadata is found, where it has any.
    """
    said = {"realm": REALM}
    if isinstance(error, InvalidToken):
        said |= {"error": "invalid_token", "error_description": str(error)}
    if metadata:
        said["resource_metadata"] = metadata
    return b"Bearer " + ", ".join(f'{name}="{_quotable(value)}"' for name, value in said.items()).encode("ascii")


def _quotable(text: str) -> str:
    return _not_quotable.sub("_", text)
