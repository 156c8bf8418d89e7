"""Reads `gateway.access`: a table of who may use what."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from mcpgateway.config.reader import Source, close_to, refuse_unknown
from mcpgateway.config.text import Place
from mcpgateway.config.values import AccessRule, ServerConfig

_WHO = {"principal": "principals", "tenant": "tenants", "group": "groups", "issuer": "issuers"}
_WHAT = ("tools", "resources", "prompts")
_WHO_WANTED = 'expected "everyone", or an object with some of principal, tenant, group, issuer; all that are given must fit'


def read_access(data: Any, servers: Sequence[ServerConfig], place: Place, source: Source) -> tuple[AccessRule, ...] | None:
    """The rules, or None where there are none. Problems are noted in `source`."""
    if data is None:
        return None
    if not isinstance(data, list) or not data:
        # Empty is refused too: it would lock everybody out, which nobody means.
        source.problem(place, "expected a list with at least one rule; leave it out to let every caller use everything")
        return None
    return tuple(_read_rule(rule, servers, (*place, index), source) for index, rule in enumerate(data))


def _read_rule(data: Any, servers: Sequence[ServerConfig], place: Place, source: Source) -> AccessRule:
    if not isinstance(data, dict):
        source.problem(place, 'expected an object, {"who": {"group": "dev"}, "servers": ["crm"], "tools": ["read_*"]}')
        return AccessRule(servers=())
    refuse_unknown(data, ("who", "servers", *_WHAT), place, source)
    return AccessRule(
        servers=_read_servers(data.get("servers"), servers, (*place, "servers"), source),
        **_read_what(data, place, source),
        **_read_who(data.get("who"), (*place, "who"), source),
    )


def _read_who(who: Any, place: Place, source: Source) -> dict[str, tuple[str, ...]]:
    if who == "everyone":
        return {}
    if not isinstance(who, dict) or not who:
        source.problem(place, _WHO_WANTED)
        return {}
    refuse_unknown(who, tuple(_WHO), place, source)
    return {_WHO[key]: _strings(value, (*place, key), source) for key, value in who.items() if key in _WHO}


def _read_what(rule: dict[str, Any], place: Place, source: Source) -> dict[str, tuple[str, ...]]:
    """A rule that says nothing of tools, resources and prompts means all; one that names some means only those."""
    if not any(kind in rule for kind in _WHAT):
        return {}
    return {kind: _strings(rule.get(kind, []), (*place, kind), source, may_be_empty=True) for kind in _WHAT}


def _read_servers(data: Any, servers: Sequence[ServerConfig], place: Place, source: Source) -> tuple[str, ...]:
    """The slugs of the servers that are meant."""
    meant: dict[str, None] = {}
    for index, pattern in enumerate(_strings(data, place, source)):
        fitting = [each.slug for each in servers if fnmatchcase(each.name, pattern) or pattern in (each.name, each.slug)]
        if not fitting and not any(sign in pattern for sign in "*?["):
            _refuse_server(data if isinstance(data, str) else data[index], pattern, servers, place, source)
        meant |= dict.fromkeys(fitting)
    return tuple(meant)


def _refuse_server(written: str, meant: str, servers: Sequence[ServerConfig], place: Place, source: Source) -> None:
    names = [each.name for each in servers]
    near = close_to(meant, names)
    hint = f"did you mean {near!r}?" if near else f"there are: {', '.join(names) or 'none'}"
    source.problem(place, f"there is no server {written!r}; {hint}")


def _strings(data: Any, place: Place, source: Source, *, may_be_empty: bool = False) -> tuple[str, ...]:
    """One string or a list of them."""
    found = source.expand(data, place)
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
        source.problem(place, "expected a string or a list of strings")
        return ()
    if not found and not may_be_empty:
        source.problem(place, "is empty; name at least one")
    return tuple(found)
