"""What a view offers, as one list: gathered from the catalogue, named for the view, cut into pages."""

from __future__ import annotations

import asyncio
import base64
import logging

import msgspec
from msgspec import Raw

from mcpgateway import runtime
from mcpgateway.auth.access import Access, Rights
from mcpgateway.errors import GatewayError, InvalidParams
from mcpgateway.protocol import jsonrpc, names
from mcpgateway.protocol.call import Call
from mcpgateway.services.catalog import PROMPTS, TOOLS, Catalog, Item, Kind, Listing
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.upstream import State, Upstream
from mcpgateway.services.views import View

_log = logging.getLogger("mcpgateway.lists")

PAGE_SIZE = 1000
"""Large, for many clients read the first page only."""

PATIENCE_SECONDS = 1.0
"""How long an upstream may hold up a list of many: what comes later is announced with list_changed."""


class Lists:
    """Lists over all upstreams of a view. One that is slow or down holds up nobody for long."""

    def __init__(self, catalog: Catalog, access: Access) -> None:
        self._catalog = catalog
        self._access = access

    async def page(self, view: View, conversation: Conversation, call: Call, kind: Kind) -> bytes:
        """The raw list result that answers `call`: the items of one page, and the cursor of the next if there is one."""
        start = _offset_of(call.params.get("cursor"))
        items: list[bytes] = []
        seen: set[str] = set()
        rights = self._access.of(conversation.principal)
        for upstream, listing in await self.gather(view, conversation, call, kind):
            shown = listing.items if rights.all else [i for i in listing.items if allows(rights, upstream, kind, i.id)]
            items += [_shown(view, upstream, item, kind, seen) for item in shown]
            seen.update(item.id for item in shown)
        body = b'{"%b":[%b]' % (kind.field.encode(), b",".join(items[start : start + PAGE_SIZE]))
        if start + PAGE_SIZE < len(items):
            body += b',"nextCursor":"%b"' % _cursor(start + PAGE_SIZE)
        return body + b"}"

    async def gather(self, view: View, conversation: Conversation, call: Call, kind: Kind) -> list[tuple[Upstream, Listing]]:
        """Each upstream with its list, in the order of the configuration. Of a single view, raises what fetching raises."""
        if view.single:
            return [(view.only, await self._catalog.listing(view.only, conversation, call, kind))]
        found: dict[str, Listing] = {}
        missing: list[Upstream] = []
        rights = self._access.of(conversation.principal)
        for slug, upstream in view.upstreams.items():
            if not rights.server(slug):
                continue
            listing = self._catalog.known(upstream, conversation, call, kind)
            if listing is not None:
                found[slug] = listing
            if listing is None or listing.stale:
                missing.append(upstream)
        if missing:
            found |= await self._fetch(missing, conversation, call, kind)
        return [(upstream, found[slug]) for slug, upstream in view.upstreams.items() if slug in found]

    async def _fetch(self, upstreams: list[Upstream], conversation: Conversation, call: Call, kind: Kind) -> dict[str, Listing]:
        tasks = {
            runtime.spawn(self._listing(upstream, conversation, call, kind), f"{kind.method} of {upstream.slug}"): upstream
            for upstream in upstreams
            if upstream.state not in (State.UNREACHABLE, State.INCOMPATIBLE)
        }
        if not tasks:
            return {}
        done, late = await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
        found = {tasks[task].slug: task.result() for task in done}
        for task in late:
            task.add_done_callback(lambda task: _announce(task, conversation, kind))
        for upstream in tasks.values():
            if found.get(upstream.slug) is None:
                found[upstream.slug] = self._catalog.alike(upstream, conversation, call, kind)
        return {slug: listing for slug, listing in found.items() if listing is not None}

    async def _listing(self, upstream: Upstream, conversation: Conversation, call: Call, kind: Kind) -> Listing | None:
        try:
            return await self._catalog.listing(upstream, conversation, call, kind)
        except GatewayError as error:
            _log.info("%s of %r is left out: %s", kind.method, upstream.name, error)
            return None


def allows(rights: Rights, upstream: Upstream, kind: Kind, id: str) -> bool:
    """Whether a caller may use one item of a list."""
    if kind is TOOLS:
        return rights.tool(upstream.slug, id)
    return rights.prompt(upstream.slug, id) if kind is PROMPTS else rights.resource(upstream.slug, id)


def _announce(task: asyncio.Task[Listing | None], conversation: Conversation, kind: Kind) -> None:
    if not task.cancelled() and task.exception() is None and task.result() is not None:
        conversation.lists_changed(kind.capability)


def _shown(view: View, upstream: Upstream, item: Item, kind: Kind, seen: set[str]) -> bytes:
    """An item as this view shows it: raw, or with another name where it must be told apart."""
    if view.single:
        return item.raw
    if kind.id_field == "name":
        name = names.exposed(upstream.slug, item.id)
    elif item.id in seen:
        name = names.qualified_uri(upstream.slug, item.id)
    else:
        return item.raw
    return msgspec.json.encode(jsonrpc.object_of(item.raw) | {kind.id_field: jsonrpc.raw(name)})


def _cursor(offset: int) -> bytes:
    return base64.urlsafe_b64encode(b"o%d" % offset).rstrip(b"=")


def _offset_of(cursor: Raw | None) -> int:
    """The position that a cursor of ours stands for. Raises InvalidParams for any other."""
    if cursor is None or bytes(cursor) == b"null":
        return 0
    try:
        text = jsonrpc.string_of({"cursor": cursor}, "cursor")
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if not decoded.startswith(b"o"):
            raise ValueError("no cursor of ours")
        return max(0, int(decoded[1:]))
    except ValueError as error:
        raise InvalidParams("params.cursor is none that this server gave out; begin again without it") from error
