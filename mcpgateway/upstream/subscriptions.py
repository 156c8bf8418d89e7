"""What a listen stream is asked for, what its server promises, and how its messages say to which stream they belong."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec import Raw

from mcpgateway.errors import InvalidParams
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.modern import SUBSCRIPTION_META
from mcpgateway.upstream.base import Welcome

CHANGES = {
    "toolsListChanged": ("tools", "notifications/tools/list_changed"),
    "promptsListChanged": ("prompts", "notifications/prompts/list_changed"),
    "resourcesListChanged": ("resources", "notifications/resources/list_changed"),
}
"""What may be asked for, the capability that offers it with `listChanged`, and the notification that it brings."""


class Wanted(NamedTuple):
    """What a stream is to bring: changes of lists, and updates of resources."""

    lists: frozenset[str] = frozenset()
    uris: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.lists or self.uris)

    def filter(self) -> Raw:
        """As `params.notifications` says it."""
        fields: dict[str, object] = dict.fromkeys(sorted(self.lists), True)
        if self.uris:
            fields["resourceSubscriptions"] = sorted(self.uris)
        return jsonrpc.raw(fields)


class _Honoured(msgspec.Struct, rename="camel"):
    """What an acknowledgement says of resources."""

    resource_subscriptions: list[str] = []


def honoured_in(params: jsonrpc.Params) -> frozenset[str]:
    """The resources of whose updates an acknowledgement promises to tell."""
    try:
        said = msgspec.json.decode(params.get("notifications", Raw(b"{}")), type=_Honoured)
    except (msgspec.DecodeError, RecursionError):
        return frozenset()
    return frozenset(said.resource_subscriptions)


def announced_by(welcome: Welcome) -> frozenset[str]:
    """The lists of which a server announces changes."""
    return frozenset(kind for kind, (capability, _) in CHANGES.items() if _announces(welcome.capabilities.get(capability)))


def _announces(capability: Raw | None) -> bool:
    if capability is None:
        return False
    try:
        return bytes(jsonrpc.object_of(capability).get("listChanged", b"")) == b"true"
    except InvalidParams:
        return False


def covers(subscribed: str, uri: str) -> bool:
    """Whether an update of `uri` is for who subscribed to `subscribed`: a server may tell of a part of it."""
    return uri == subscribed or uri.startswith(f"{subscribed.rstrip('/')}/")


def without_id(params: jsonrpc.Params) -> tuple[jsonrpc.Params, Raw | None]:
    """A notification's params without the id of its subscription, and that id."""
    try:
        meta = jsonrpc.object_of(params.get("_meta", Raw(b"{}")))
    except InvalidParams:
        return params, None
    id = meta.pop(SUBSCRIPTION_META, None)
    if id is None:
        return params, None
    rest = {name: value for name, value in params.items() if name != "_meta"}
    return (rest | {"_meta": jsonrpc.raw(meta)} if meta else rest), id
