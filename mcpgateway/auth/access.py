"""What a principal may use: a table of rules that allow, and nothing that forbids. No rules at all: everything.

Patterns are shell-style (`*`, `?`, `[a-z]`), minding letter case, and match the names that the upstream itself uses.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from fnmatch import translate
from urllib.parse import unquote

from mcpgateway.auth.principals import Principal
from mcpgateway.config.values import AccessRule

REMEMBERED = 10_000

_parting = re.compile(r"[/\\?#&=;]")
_DECODINGS = 5
_MAX_URI = 8192  # decoding a longer one, perhaps several times, would hold up everybody


class Patterns:
    """Some names, by their shape."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._written = tuple(patterns)
        self._all = "*" in self._written
        self._matches = [re.compile(translate(pattern)).match for pattern in self._written]

    def __repr__(self) -> str:
        return f"<Patterns {' '.join(self._written)}>"

    def fit(self, name: str) -> bool:
        return self._all or any(match(name) for match in self._matches)

    def fit_uri(self, uri: str) -> bool:
        """As `fit`; but a URI that climbs with `..` out of where it seems to lie fits only `*`."""
        return self._all or (self.fit(uri) and not _climbs(uri))


class Rule:
    """One row of the table."""

    def __init__(self, config: AccessRule) -> None:
        self._config = config
        self.servers = frozenset(config.servers)
        self.tools = Patterns(config.tools)
        self.resources = Patterns(config.resources)
        self.prompts = Patterns(config.prompts)

    def __repr__(self) -> str:
        return f"<Rule for {', '.join(sorted(self.servers))}>"

    def concerns(self, principal: Principal) -> bool:
        """Whether the rule allows `principal` anything: every condition that it has must fit."""
        rule = self._config
        return (
            _fits(rule.issuers, principal.issuer)
            and _fits(rule.principals, principal.subject)
            and _fits(rule.tenants, principal.tenant)
            and (not rule.groups or not set(rule.groups).isdisjoint(principal.groups))
        )


class Rights:
    """What one principal may use: all that any of its rules allows. `all` is true where no rules were made."""

    all = False

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = rules

    def __repr__(self) -> str:
        return f"<Rights by {len(self._rules)} rules>"

    def server(self, slug: str) -> bool:
        """Whether anything of this server may be used."""
        return any(slug in rule.servers for rule in self._rules)

    def tool(self, slug: str, name: str) -> bool:
        return any(slug in rule.servers and rule.tools.fit(name) for rule in self._rules)

    def resource(self, slug: str, uri: str) -> bool:
        """Whether a resource may be read; of a template, `uri` is its URI template."""
        return any(slug in rule.servers and rule.resources.fit_uri(uri) for rule in self._rules)

    def prompt(self, slug: str, name: str) -> bool:
        return any(slug in rule.servers and rule.prompts.fit(name) for rule in self._rules)


class AllRights(Rights):
    """Everything: what everybody may use where no rules were made."""

    all = True

    def server(self, slug: str) -> bool:
        return True

    def tool(self, slug: str, name: str) -> bool:
        return True

    def resource(self, slug: str, uri: str) -> bool:
        return True

    def prompt(self, slug: str, name: str) -> bool:
        return True


EVERYTHING = AllRights()
NOTHING = Rights()


class Access:
    """The table. None instead of rules: every authenticated caller may use everything."""

    def __init__(self, rules: Iterable[AccessRule] | None, remembered: int = REMEMBERED) -> None:
        self.replace(rules)
        self._remembered = remembered

    def __repr__(self) -> str:
        return f"<Access {'without rules' if self._rules is None else f'by {len(self._rules)} rules'}>"

    def replace(self, rules: Iterable[AccessRule] | None) -> None:
        """Another table is in force from now on."""
        self._rules = None if rules is None else [Rule(rule) for rule in rules]
        # By value: groups are no part of who a principal is, but they are part of what it may.
        self._known: OrderedDict[Principal, Rights] = OrderedDict()

    def of(self, principal: Principal | None) -> Rights:
        """What `principal` may use, by the groups it has now. None is the gateway itself, which may use everything."""
        if self._rules is None or principal is None:
            return EVERYTHING
        rights = self._known.get(principal)
        if rights is None:
            rights = self._known[principal] = Rights(tuple(rule for rule in self._rules if rule.concerns(principal)))
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(principal)
        return rights


def _fits(wanted: Sequence[str], found: str) -> bool:
    return not wanted or found in wanted


def _climbs(uri: str) -> bool:
    """Whether a part of the URI is `..`, however often it was percent-encoded: upstreams decode as they please.

    True as well where telling would take too long.
    """
    if len(uri) > _MAX_URI:
        return True
    for _ in range(_DECODINGS):
        if ".." in _parting.split(uri):
            return True
        decoded = unquote(uri)
        if decoded == uri:
            return False
        uri = decoded
    return True
