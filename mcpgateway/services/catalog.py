"""What each upstream offers to each identity: tools, resources, resource templates and prompts, served from memory.

Kept per upstream, upstream identity and client capabilities, for a server may list differently for another credential and
for a client that can do more. A conversation whose own session announced a change gets lists of its own.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter, OrderedDict
from typing import NamedTuple

import msgspec
from msgspec import Raw

from mcpgateway import runtime
from mcpgateway.errors import GatewayError, InvalidParams, RpcError
from mcpgateway.protocol import jsonrpc, names
from mcpgateway.protocol.call import Call, NoChannel
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.forward import Forward
from mcpgateway.services.upstream import Upstream

_log = logging.getLogger("mcpgateway.catalog")

MAX_PAGES = 1000
MAX_ENTRIES = 4096
MAX_AGE_SECONDS = 300.0
"""Servers that announce no changes are asked again after this time, while the old list is served."""


class Kind(NamedTuple):
    """One kind of list: the method that asks for it, the field it comes in, and what an item is known by."""

    method: str
    field: str
    id_field: str
    capability: str


TOOLS = Kind("tools/list", "tools", "name", "tools")
RESOURCES = Kind("resources/list", "resources", "uri", "resources")
TEMPLATES = Kind("resources/templates/list", "resourceTemplates", "uriTemplate", "resources")
PROMPTS = Kind("prompts/list", "prompts", "name", "prompts")
KINDS = (TOOLS, RESOURCES, TEMPLATES, PROMPTS)


class Item(NamedTuple):
    """One entry of a list: what it is known by, and its raw JSON as the upstream sent it."""

    id: str
    raw: bytes


class Listing:
    """One upstream's list of one kind, complete."""

    __slots__ = ("_exposed", "_patterns", "by_id", "fetched_at", "items", "stale")

    def __init__(self, items: list[Item], fetched_at: float) -> None:
        self.items = items
        self.by_id = {item.id: item for item in items}
        self.fetched_at = fetched_at
        self.stale = False
        self._exposed: dict[str, str] | None = None
        self._patterns: list[re.Pattern[str]] | None = None

    def __repr__(self) -> str:
        return f"<Listing {len(self.items)} items{' stale' if self.stale else ''}>"

    def own_name(self, slug: str, exposed: str) -> str | None:
        """The upstream's own name of what is exposed under this one."""
        if self._exposed is None:
            self._exposed = {names.exposed(slug, item.id): item.id for item in self.items}
        return self._exposed.get(exposed)

    def matches(self, uri: str) -> bool:
        """Whether one of these URI templates (RFC 6570) can make `uri`."""
        if self._patterns is None:
            self._patterns = [template_pattern(item.id) for item in self.items]
        return any(pattern.fullmatch(uri) for pattern in self._patterns)


def template_pattern(template: str) -> re.Pattern[str]:
    """A pattern for the URIs that a template makes. `{+x}` and `{#x}` may hold slashes, other expressions may not."""
    parts = re.split(r"(\{[^{}]*\})", template)
    return re.compile("".join(_part_pattern(part) for part in parts), re.DOTALL)


def _part_pattern(part: str) -> str:
    if not (part.startswith("{") and part.endswith("}")):
        return re.escape(part)
    if part[1:2] in ("?", "&"):
        return r"(?:[?&][^#]*)?"
    return r".+" if part[1:2] in ("+", "#", "/") or part.endswith("*}") else r"[^/]+"


Key = tuple[str, str, str, str]
"""Upstream, identity, capabilities, and the conversation whose lists are its own ('' for the shared ones)."""


class Entry:
    """The lists of one key, and the fetches under way."""

    def __init__(self) -> None:
        self.listings: dict[Kind, Listing] = {}
        self.fetching: dict[Kind, asyncio.Task[Listing]] = {}
        self.changes: Counter[str] = Counter()
        """How often each capability's lists were announced as changed: what was asked for before is stale."""

    def __repr__(self) -> str:
        return f"<Entry {', '.join(f'{kind.field}: {listing!r}' for kind, listing in self.listings.items())}>"


class Catalog:
    """Lists by key. A list that is asked for the first time is fetched on the asker's own session."""

    def __init__(self, forward: Forward, clock: runtime.Clock | None = None) -> None:
        self._forward = forward
        self._now = (clock or runtime.Clock()).now
        self._entries: OrderedDict[Key, Entry] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Catalog {len(self._entries)} entries>"

    def _entry(self, upstream: Upstream, conversation: Conversation, call: Call) -> Entry:
        identity = upstream.identity_of(conversation.principal, call)
        key = (upstream.slug, identity, conversation.capabilities_print, conversation.id)
        entry = self._entries.get(key)
        if entry is not None:
            return entry
        key = (*key[:3], "")
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry()
            if len(self._entries) > MAX_ENTRIES:
                self._entries.popitem(last=False)
        else:
            self._entries.move_to_end(key)
        return entry

    def known(self, upstream: Upstream, conversation: Conversation, call: Call, kind: Kind) -> Listing | None:
        """The list if it is in memory, without asking anybody. It may be out of date."""
        return self._entry(upstream, conversation, call).listings.get(kind)

    def alike(self, upstream: Upstream, conversation: Conversation, call: Call, kind: Kind) -> Listing | None:
        """The list that this identity is shown as a client of other capabilities, until its own is there."""
        identity = upstream.identity_of(conversation.principal, call)
        for key, entry in self._entries.items():
            if key[:2] == (upstream.slug, identity) and not key[3] and kind in entry.listings:
                return entry.listings[kind]
        return None

    def at_hand(self, upstream: Upstream, conversation: Conversation, call: Call, kind: Kind) -> Listing | None:
        """The list as far as it is in memory, or one alike. Where it is not, or is out of date, it is fetched meanwhile."""
        entry = self._entry(upstream, conversation, call)
        listing = entry.listings.get(kind)
        if listing is None or listing.stale or self._now() - listing.fetched_at > MAX_AGE_SECONDS:
            self._fetch(entry, upstream, conversation, call, kind, None)
        return listing or self.alike(upstream, conversation, call, kind)

    async def listing(
        self, upstream: Upstream, conversation: Conversation, call: Call, kind: Kind, via: Forward | None = None
    ) -> Listing:
        """The list, from memory if it is current. Raises what fetching it raises, unless an older list can be served."""
        entry = self._entry(upstream, conversation, call)
        listing = entry.listings.get(kind)
        if listing is not None and not listing.stale:
            if self._now() - listing.fetched_at > MAX_AGE_SECONDS:
                self._fetch(entry, upstream, conversation, call, kind, via)
            return listing
        try:
            return await asyncio.shield(self._fetch(entry, upstream, conversation, call, kind, via))
        except GatewayError:
            if listing is not None:
                return listing
            raise

    def _fetch(
        self,
        entry: Entry,
        upstream: Upstream,
        conversation: Conversation,
        call: Call,
        kind: Kind,
        via: Forward | None,
    ) -> asyncio.Task[Listing]:
        """The fetch under way, begun if there is none: whoever asks meanwhile waits for the same one."""
        task = entry.fetching.get(kind)
        if task is None:
            work = self._pages(entry, upstream, conversation, call, kind, via or self._forward)
            task = asyncio.get_running_loop().create_task(work)
            entry.fetching[kind] = task
            task.add_done_callback(lambda done: self._fetched(entry, upstream, kind, done))
        return task

    def _fetched(self, entry: Entry, upstream: Upstream, kind: Kind, task: asyncio.Task[Listing]) -> None:
        entry.fetching.pop(kind, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.info("%s of %r: %s", kind.method, upstream.name, error)

    async def _pages(
        self, entry: Entry, upstream: Upstream, conversation: Conversation, asked: Call, kind: Kind, via: Forward
    ) -> Listing:
        before = entry.changes[kind.capability]
        offered = upstream.offers_to(conversation.principal, asked, kind.capability)
        items = await self._items(upstream, conversation, asked, kind, via) if offered else []
        listing = entry.listings[kind] = Listing(items, self._now())
        listing.stale = entry.changes[kind.capability] != before
        return listing

    async def _items(self, upstream: Upstream, conversation: Conversation, asked: Call, kind: Kind, via: Forward) -> list[Item]:
        items: list[Item] = []
        cursor: Raw | None = None
        seen: set[bytes] = set()
        for _ in range(MAX_PAGES):
            params = {} if cursor is None else {"cursor": cursor}
            call = Call(kind.method, params, client=conversation, client_headers=asked.client_headers)
            try:
                page = jsonrpc.object_of(await via.send(upstream, conversation, call, NoChannel()))
            except RpcError as error:
                # A server may declare resources and have no templates: then the method is unknown to it.
                if error.code == -32601:
                    return items
                raise
            items += _items_of(page.get(kind.field), kind)
            cursor = page.get("nextCursor")
            if cursor is None or bytes(cursor) == b"null" or bytes(cursor) in seen:
                return items
            cursor = Raw(bytes(cursor))
            seen.add(bytes(cursor))
        return items

    def changed(self, upstream: str, capability: str, conversation: Conversation | None = None) -> None:
        """A list is out of date: everybody's, or that of one conversation, which from now on has lists of its own."""
        if conversation is None:
            for key, entry in self._entries.items():
                if key[0] == upstream:
                    _mark_stale(entry, capability)
            return
        binding = conversation.bindings.get(upstream)
        if binding is not None:
            key = (upstream, binding.identity, conversation.capabilities_print, conversation.id)
            _mark_stale(self._entries.setdefault(key, Entry()), capability)

    def drop(self, upstream: str) -> None:
        """The upstream is gone, or is another one now: nothing that is known of it holds."""
        for key in [key for key in self._entries if key[0] == upstream]:
            del self._entries[key]

    def forget(self, conversation: Conversation) -> None:
        """The conversation is over: lists of its own go."""
        for binding in conversation.bindings.values():
            self._entries.pop((binding.upstream.slug, binding.identity, conversation.capabilities_print, conversation.id), None)

    def counts(self, upstream: Upstream) -> dict[str, int | None]:
        """How many tools, resources and prompts the upstream offers, by what was listed last."""
        found: dict[str, int | None] = {}
        for key, entry in self._entries.items():
            if key[0] == upstream.slug:
                found.update({kind.field: len(listing.items) for kind, listing in entry.listings.items()})
        return found


def _items_of(raw: Raw | None, kind: Kind) -> list[Item]:
    """The items of one page. What has no name is left out: it could not be called."""
    try:
        raws = msgspec.json.decode(raw, type=list[Raw]) if raw is not None else []
    except (msgspec.DecodeError, RecursionError):
        return []
    items = []
    for raw_item in raws:
        try:
            items.append(Item(jsonrpc.string_of(jsonrpc.object_of(raw_item), kind.id_field), bytes(raw_item)))
        except InvalidParams as error:
            _log.warning("an item without a usable %s in %s: %s", kind.id_field, kind.method, error)
    return items


def _mark_stale(entry: Entry, capability: str) -> None:
    entry.changes[capability] += 1
    for kind, listing in entry.listings.items():
        if kind.capability == capability:
            listing.stale = True
