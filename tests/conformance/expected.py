"""What is known to be lost on a path, and why: the files in `expected/`.

They are in the suite's own format, so that its `--expected-failures` takes them, too: lines `- scenario:check-id` below
`server:` or `client:`. Here every entry needs a reason besides: the comment above it or above the group that it is in.
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent / "expected"

_entry = re.compile(r"  - (?P<name>[\w.-]+:[\w.$/-]+)")


class NoReason(Exception):
    """A line of such a file that cannot be read, or an entry without its reason."""


def read(path: str) -> dict[str, str]:
    """The expected losses of a path by name, each with its reason. None where there is no file."""
    file = FOLDER / f"{path}.yml"
    return parse(file.read_text()) if file.exists() else {}


def parse(text: str) -> dict[str, str]:
    """As `read`, of a file's text. Raises NoReason."""
    entries: dict[str, str] = {}
    reason, in_comment = "", False
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare.startswith("#"):
            reason = f"{reason} {bare[1:].strip()}".strip() if in_comment else bare[1:].strip()
        elif found := _entry.fullmatch(line.rstrip()):
            if not reason:
                raise NoReason(f"line {number}: {bare} has no comment above it that says why")
            entries[found["name"]] = reason
        elif bare in ("", "server:", "client:", "server: []", "client: []"):
            reason = ""
        else:
            raise NoReason(f"line {number} cannot be read: {bare}")
        in_comment = bare.startswith("#")
    return entries
