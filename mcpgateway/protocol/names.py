"""The names under which what upstreams offer is shown to clients, and the way back from them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256

from mcpgateway.config.slug import slug_of

__all__ = ["MAX_NAME", "SEPARATOR", "exposed", "qualified_uri", "slug_of", "split", "split_qualified"]

SEPARATOR = "__"
MAX_NAME = 64
"""Longer tool names are refused by several clients."""

_scheme = re.compile(r"[a-z][a-z0-9.-]*")


def exposed(slug: str, name: str) -> str:
    """What clients call the tool or prompt `name` of the server `slug`: at most 64 characters, the same on every run.

    A name that is too long is cut and marked with a hash of all of it; then `split` still finds the server, and the name
    has to be looked up.
    """
    full = f"{slug}{SEPARATOR}{name}"
    if len(full) <= MAX_NAME:
        return full
    return f"{full[: MAX_NAME - 9]}_{_digest(slug, name)[:8]}"


def split(exposed_name: str) -> tuple[str, str] | None:
    """The slug and the name in an exposed name, or None where it is none. Slugs never hold the separator."""
    slug, separator, name = exposed_name.partition(SEPARATOR)
    return (slug, name) if slug and separator and name else None


def qualified_uri(slug: str, uri: str) -> str:
    """A resource's URI that tells its server too, for URIs that several servers have."""
    return f"{_scheme_of(slug)}+{uri}"


def split_qualified(uri: str, slugs: Iterable[str]) -> tuple[str, str] | None:
    """The slug, one of `slugs`, and the server's own URI, or None where `uri` is not qualified by one of them.

    A server's own URI may look qualified (`git+ssh://…`), so an exact match is to be tried first.
    """
    scheme, plus, rest = uri.partition("+")
    if not plus or not rest:
        return None
    by_scheme = {_scheme_of(slug): slug for slug in slugs}
    slug = by_scheme.get(scheme.lower())
    return None if slug is None else (slug, rest)


def _scheme_of(slug: str) -> str:
    """The slug as the beginning of a URI scheme. Clients parse URIs: no "_", no capitals, a letter first (RFC 3986, 3.1)."""
    if _scheme.fullmatch(slug):
        return slug
    return f"s-{slug.lower().replace('_', '-')}-{sha256(slug.encode()).hexdigest()[:6]}"


def _digest(slug: str, name: str) -> str:
    # The length makes the pair injective: ("a", "bc") and ("ab", "c") must differ.
    return sha256(f"{len(slug)}:{slug}{name}".encode("utf-8", "surrogatepass")).hexdigest()
