"""Takes values out of the file one by one: substitutes the environment, checks the type, and notes what is wrong.

Nothing is raised before all has been read, so that a person sees every problem at once. A problem shows the value as it is
written in the file, never what was substituted into it, and not even that where a secret may stand.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from mcpgateway.config.text import Located, Place
from mcpgateway.errors import ConfigError

_T = TypeVar("_T", bound=msgspec.Struct)

_variable = re.compile(r"\$(\$?)\{([^}]*)\}")
_reference = re.compile(r"(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_other_variable = re.compile(r"[A-Za-z]+(:[\w.-]+)?")
_PRIVATE = frozenset(
    {"url", "command", "args", "env", "cwd", "headers", "auth", "credentials", "credentials_file", "oauth", "tls"}
)
"""Keys under which people keep secrets, by intent or by mistake."""


class _File(NamedTuple):
    """A file that is read, and where in the configuration it is named; the configuration itself is named nowhere."""

    path: str
    located: Located
    named_at: Place


class Source:
    """One file being read, with those that it names: what is wrong so far, and which strings in it are secret."""

    def __init__(self, located: Located, path: str, environ: Mapping[str, str]) -> None:
        self.secrets: set[str] = set()
        self.files: set[str] = set()
        """Files that this one names and that are read with it, whether they are there or not."""
        self.issuers: list[tuple[str, Place]] = []
        """Issuers that servers' entries name, and where: which there are is known only in the end."""
        self._file = _File(path, located, ())
        self._others: dict[Place, _File] = {}
        self._environ = environ
        self._problems: list[tuple[tuple[int, int], str]] = []
        self._faulty: set[Place] = set()

    def __repr__(self) -> str:
        return f"<Source {self._file.path!r} {len(self._problems)} problems>"

    def beside(self, path: str) -> Path:
        """Where the file lies that is named `path` here: a relative one begins at the configuration file's folder."""
        try:
            named = Path(path).expanduser()
        except RuntimeError:  # the home of a user that there is none of
            named = Path(path)
        return Path(self._file.path).parent / named

    def go_on_in(self, path: str, located: Located, place: Place) -> None:
        """What lies below `place` stands in another file, which `place` names: its problems are told as that file's."""
        self._others[place] = _File(path, located, place)

    def problem(self, place: Place, text: str, line: int | None = None) -> None:
        """Note that something is wrong at `place`."""
        file = self._file_of(place)
        inside = place[len(file.named_at) :]
        line = line or file.located.line_of(inside)
        where = f"{file.path}:{line}" if line else file.path
        self._note(f"{where}: {name_of(inside)}: {text}" if inside else f"{where}: {text}", line or 0, file.named_at)
        self._faulty.add(place)

    def unreadable(self, place: Place, said: str) -> None:
        """Note that the file that is named at `place` holds nothing to be read. `said` begins with its name."""
        self._note(said, 0, place)
        self._faulty.add(place)

    def _file_of(self, place: Place) -> _File:
        return next((file for start, file in self._others.items() if place[: len(start)] == start), self._file)

    def _note(self, said: str, line: int, named_at: Place) -> None:
        order = (line, 0)
        if named_at:
            said = f"{said} (read for {name_of(named_at)})"
            order = (self._file.located.line_of(named_at) or 0, line)
        self._problems.append((order, said))

    def is_faulty(self, place: Place) -> bool:
        """Whether something at `place` was found wrong already, so that nothing more needs to be said of it."""
        return place in self._faulty

    def raise_problems(self) -> None:
        """Raise ConfigError with all that was noted, in the order of the file."""
        if self._problems:
            lines = [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]
            raise ConfigError("\n".join(dict.fromkeys(lines)))

    def expand(self, value: Any, place: Place, *, lenient: bool = False) -> Any:
        """`value` with every ${VAR} in its strings replaced. A missing variable is a problem, unless `lenient`."""
        if isinstance(value, str):
            return _variable.sub(lambda found: self._substitute(found, place, lenient), value)
        if isinstance(value, dict):
            return {key: self.expand(item, (*place, key), lenient=lenient) for key, item in value.items()}
        if isinstance(value, list):
            return [self.expand(item, (*place, index), lenient=lenient) for index, item in enumerate(value)]
        return value

    def _substitute(self, found: re.Match[str], place: Place, lenient: bool) -> str:
        escaped, inside = found.groups()
        if escaped:
            return found[0][1:]
        reference = _reference.fullmatch(inside)
        if reference is None:
            # Only what is plainly another program's variable is shown; the rest might be part of a secret.
            what = f"${{{inside}}}" if _other_variable.fullmatch(inside) else "a ${…} in it"
            self.problem(
                place, f"{what} is not known here; write ${{NAME}}, ${{NAME:-default}}, or $${{…}} for the text itself"
            )
            return ""
        name, default = reference.groups()
        value = self._environ.get(name, "")
        if not value and default is not None:
            return default
        if name not in self._environ and not lenient:
            self.problem(place, f"the environment has no {name}; set it, or write ${{{name}:-default}}")
        return value


def read_section(kind: type[_T], data: object, place: Place, source: Source, *, lenient: bool = False) -> _T:
    """The Struct `kind` out of an object of the file; defaults stand in for what is wrong, which `source` has noted.

    Keys that `kind` does not have are left to the caller, see `refuse_unknown`.
    """
    if not isinstance(data, dict):
        source.problem(place, f"expected an object, found {shown(data, place)}")
        return kind()
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.name in data:
            read = _read_field(field.type, data[field.name], (*place, field.name), source, lenient)
            if read is not msgspec.UNSET:
                values[field.name] = read
    return kind(**values)


def _read_field(kind: Any, written: object, place: Place, source: Source, lenient: bool) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if isinstance(written, dict):
            refuse_unknown(written, _names(kind), place, source)
        return read_section(kind, written, place, source, lenient=lenient)
    try:
        return msgspec.convert(source.expand(written, place, lenient=lenient), kind)
    except msgspec.ValidationError:
        where, found, wanted = _misfit(inspect.type_info(kind), written, place)
        source.problem(where, f"expected {wanted}, found {shown(found, where)}")
        return msgspec.UNSET


def _misfit(kind: inspect.Type, written: object, place: Place) -> tuple[Place, object, str]:
    """The value that does not fit: `written` itself, or the first of its members that is no string."""
    members: list[tuple[str | int, object]] = []
    if isinstance(kind, inspect.VarTupleType) and isinstance(written, list):
        members = list(enumerate(written))
    elif isinstance(kind, inspect.DictType) and isinstance(written, dict):
        members = list(written.items())
    for key, member in members:
        if not isinstance(member, str):
            return (*place, key), member, "a string"
    return place, written, expected(kind)


def expected(kind: inspect.Type) -> str:
    """What a setting of this type takes, in words."""
    if isinstance(kind, inspect.LiteralType):
        return f"one of {', '.join(map(str, kind.values))}"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
        return f"{noun} from {kind.ge} to {kind.le}" if kind.ge is not None and kind.le is not None else noun
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if isinstance(kind, inspect.VarTupleType):
        return "a list of strings"
    if isinstance(kind, inspect.DictType):
        return "an object of strings"
    return "a string"


def refuse_unknown(data: Mapping[str, object], known: Collection[str], place: Place, source: Source) -> None:
    """Note every key that is not among `known`, with the one that was probably meant."""
    for key in data:
        if key not in known:
            near = close_to(key, known)
            hint = f"did you mean {near!r}?" if near else f"known here: {', '.join(known)}"
            source.problem((*place, key), f"unknown key; {hint}")


def close_to(key: str, known: Collection[str]) -> str | None:
    """The one of `known` that `key` is probably a misspelling of."""
    bare = {_bare(name): name for name in known}
    near = difflib.get_close_matches(_bare(key), bare, n=1, cutoff=0.8)
    return bare[near[0]] if near else None


def shown(value: object, place: Place) -> str:
    """The value as an error may show it."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    if any(step in _PRIVATE for step in place):
        return {str: "a string", bool: "true or false"}.get(type(value), "a number")
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"


def name_of(place: Place) -> str:
    """`mcpServers.crm.args[0]`, as people write it."""
    return "".join(f"[{step}]" if isinstance(step, int) else _step(step) for step in place).removeprefix(".")


def _step(key: str) -> str:
    return f".{key}" if re.fullmatch(r"[\w-]+", key) else f"[{json.dumps(key, ensure_ascii=False)}]"


def _names(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(kind))


def _bare(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "")
