"""JSON with comments: its value, the line of every key, and the keys given twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import json5

from mcpgateway.errors import ConfigError

Place = tuple[str | int, ...]
"""The way to a value: keys and list positions from the top."""

_token = re.compile(r"""//[^\n]*|/\*.*?\*/|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[{}\[\],:\n]|[^\s{}\[\],:"'/]+""", re.DOTALL)
_complaint = re.compile(r"^<string>:(\d+) (.*)$", re.DOTALL)


class Located:
    """A file's top-level object, `data`, and the lines its keys stand on."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.lines: dict[Place, int] = {}
        self.repeated: dict[Place, tuple[int, int]] = {}
        """Keys given more than once: first and last line."""

    def stands_on(self, place: Place, line: int) -> None:
        """Note that a key stands on `line`."""
        if place not in self.lines:
            self.lines[place] = line
        elif not any(place[:end] in self.repeated for end in range(1, len(place))):
            self.repeated[place] = (self.lines[place], line)

    def line_of(self, place: Place) -> int | None:
        """The line of the key at `place`, or of the nearest one around it."""
        while place:
            if (line := self.lines.get(place)) is not None:
                return line
            place = place[:-1]
        return None


def locate(text: str, path: str, wanted: str = '{"mcpServers": …}') -> Located:
    """The object in `text`. Raises ConfigError where there is none; `path` is what the error calls the file, and `wanted`
    what should stand in it."""
    located = Located(_decode(text, path, wanted))
    for place, line in _keys(text):
        located.stands_on(place, line)
    return located


def _decode(text: str, path: str, wanted: str) -> dict[str, Any]:
    try:
        data = _plain(text)
    except ValueError as error:
        raise ConfigError(f"{path}{_readable(str(error))}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected an object, {wanted}")
    joined: dict[str, Any] = _joined(data)
    return joined


def _plain(text: str) -> Any:
    try:
        return json.loads(text)  # where there are no comments: the other takes a hundred times as long, also for a mere key
    except ValueError:
        return json5.loads(text)


def _joined(value: Any) -> Any:
    """`value` with the halves of characters put together that the parser leaves apart, and without what stays half."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_joined(key): _joined(item) for key, item in value.items()}
    return [_joined(item) for item in value] if isinstance(value, list) else value


def _readable(complaint: str) -> str:
    found = _complaint.match(complaint)
    return f":{found[1]}: not JSON: {found[2]}" if found else f": not JSON: {complaint}"


def _keys(text: str) -> Iterator[tuple[Place, int]]:
    """Every key and its line, in the order of the text, which is known to be well formed."""
    line = 1
    way: list[str | int | None] = []  # per open bracket: the key or position we are at, None where a key comes next
    for found in _token.finditer(text):
        token = found.group()
        if token in "{[":
            way.append(None if token == "{" else 0)
        elif token in "}]":
            way.pop()
        elif token == ",":
            at = way[-1]
            way[-1] = at + 1 if isinstance(at, int) else None
        elif way and way[-1] is None and token not in ":\n" and not token.startswith("/"):
            way[-1] = _key(token)
            yield tuple(step for step in way if step is not None), line
        line += token.count("\n")


def _key(token: str) -> str:
    return str(_joined(_plain(token))) if token[0] in "\"'" else token
