"""The short form of a server's name that stands in tool names, resource URIs and paths."""

from __future__ import annotations

import re
from hashlib import sha256

MAX_SLUG = 32

_foreign = re.compile(r"[^A-Za-z0-9_.-]")
_runs = re.compile(r"_{2,}")


def slug_of(server_name: str) -> str:
    """The server's name in at most 32 of the characters A-Z a-z 0-9 _ . - and without "__"; '' where nothing is left of it.

    "__" is what parts slug and tool name, so no slug holds it, begins or ends with "_". Dots alone would be a path that
    clients resolve away.
    """
    slug = _runs.sub("_", _foreign.sub("_", server_name)).strip("_")
    if not slug.strip("._-"):
        return ""
    if len(slug) <= MAX_SLUG:
        return slug
    mark = sha256(server_name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{slug[: MAX_SLUG - 7]}-{mark}"
