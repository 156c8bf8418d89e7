"""Resources: listing, reading, subscribing."""

from __future__ import annotations

from mcpgateway.auth.access import Access
from mcpgateway.errors import MethodNotFound, ResourceNotFound
from mcpgateway.protocol import jsonrpc, names
from mcpgateway.protocol.call import Call, Channel, NoChannel
from mcpgateway.services.capabilities import declares
from mcpgateway.services.catalog import RESOURCES, TEMPLATES
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.forward import Forward
from mcpgateway.services.lists import Lists
from mcpgateway.services.upstream import Upstream
from mcpgateway.services.views import View


class ResourceService:
    """URIs stay as they are; where two upstreams have the same one, the later is shown, and reached, by a qualified URI."""

    def __init__(self, forward: Forward, lists: Lists, access: Access) -> None:
        self._access = access
        self._forward = forward
        self._lists = lists

    async def list(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of resources/list."""
        return await self._lists.page(view, conversation, call, RESOURCES)

    async def templates(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of resources/templates/list."""
        return await self._lists.page(view, conversation, call, TEMPLATES)

    async def read(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of resources/read. Raises ResourceNotFound, and what `Forward.send` raises."""
        upstream, _, _ = await self._address(view, conversation, call)
        return await self._forward.send(upstream, conversation, call, channel)

    async def subscribe(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of resources/subscribe. The subscription outlives the upstream session that it was made on."""
        upstream, own, asked = await self._address(view, conversation, call)
        result = await self._forward.send(upstream, conversation, call, channel)
        conversation.subscriptions[upstream.slug, own] = asked
        return result

    async def unsubscribe(self, view: View, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        """The raw result of resources/unsubscribe."""
        upstream, own, _ = await self._address(view, conversation, call)
        conversation.subscriptions.pop((upstream.slug, own), None)
        return await self._forward.send(upstream, conversation, call, channel)

    async def watch(self, upstream: Upstream, conversation: Conversation, call: Call) -> None:
        """Subscribe at an upstream to its own URI, which stands in `call`; who hears of it is for the conversation to know.

        Raises MethodNotFound where the upstream has no subscriptions, and what `Forward.send` raises.
        """
        welcome = upstream.shown_to(conversation.principal, call)
        if welcome is not None and not declares(welcome, "resources", "subscribe"):
            raise MethodNotFound(f"upstream {upstream.name!r} has no subscriptions to resources")
        await self._forward.send(upstream, conversation, call, NoChannel())

    async def _address(self, view: View, conversation: Conversation, call: Call) -> tuple[Upstream, str, str]:
        """The upstream, its own URI, which is put into the call, and the URI that was asked for."""
        asked = jsonrpc.string_of(call.params, "uri")
        upstream, own = await self.owner(view, conversation, call, asked)
        if own != asked:
            call.params = call.params | {"uri": jsonrpc.raw(own)}
        return upstream, own, asked

    async def owner(self, view: View, conversation: Conversation, call: Call, uri: str) -> tuple[Upstream, str]:
        """The upstream that has a URI (or a URI template, for completion), and its own form of it.

        Raises ResourceNotFound for a URI of nobody's, and in the same words for one that the caller may not use.
        """
        upstream, own = await self._find(view, conversation, call, uri)
        if not self._access.of(conversation.principal).resource(upstream.slug, own):
            self._forward.refused(upstream, conversation, call)
            raise _not_found(uri)
        return upstream, own

    async def _find(self, view: View, conversation: Conversation, call: Call, uri: str) -> tuple[Upstream, str]:
        if view.single:
            return view.only, uri
        rights = self._access.of(conversation.principal)
        for kind in (RESOURCES, TEMPLATES):
            for upstream, listing in await self._lists.gather(view, conversation, call, kind):
                if uri in listing.by_id and rights.resource(upstream.slug, uri):
                    return upstream, uri
        qualified = names.split_qualified(uri, view.upstreams)
        if qualified is not None:
            return view.upstreams[qualified[0]], qualified[1]
        for upstream, listing in await self._lists.gather(view, conversation, call, TEMPLATES):
            if listing.matches(uri) and rights.resource(upstream.slug, uri):
                return upstream, uri
        of_caller = conversation.principal, call
        with_resources = [each for each in view.upstreams.values() if each.offers_to(*of_caller, "resources")]
        if len(with_resources) == 1:
            return with_resources[0], uri
        raise _not_found(uri)


def _not_found(uri: str) -> ResourceNotFound:
    return ResourceNotFound("no server offers this resource", data={"uri": uri[:2000]})
