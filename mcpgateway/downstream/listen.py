"""`subscriptions/listen`: streams on which modern clients hear what is said outside calls, as far as they asked for it."""

from __future__ import annotations

import asyncio
import logging
from weakref import WeakValueDictionary

import msgspec
from msgspec import Raw

from mcpgateway import runtime
from mcpgateway.downstream.callers import Caller, Resource, name_of
from mcpgateway.downstream.envelope import Envelope
from mcpgateway.downstream.event_stream import QUEUED_BYTES, QUEUED_EVENTS, EventStream
from mcpgateway.downstream.exchange import Exchange, HeaderList
from mcpgateway.downstream.leaving import Leaving
from mcpgateway.errors import Busy, GatewayError, InvalidParams
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import Call, NoChannel
from mcpgateway.protocol.jsonrpc import Params
from mcpgateway.protocol.modern import ACKNOWLEDGED, SERVER_INFO_META, SUBSCRIPTION_META, UPDATED
from mcpgateway.runtime import Sweep
from mcpgateway.services.announcements import LIST_CHANGES, Announcer, told_as
from mcpgateway.services.forward import Forward
from mcpgateway.services.handshake import Handshake
from mcpgateway.services.resource_service import ResourceService
from mcpgateway.services.upstream import Upstream
from mcpgateway.upstream.base import GATEWAY_INFO, UpstreamSession

_log = logging.getLogger("mcpgateway.listen")

BEAT_SECONDS = 60.0
"""How often it is looked whether the sessions that subscriptions are made in are still there."""

MAX_STREAMS_PER_USER = 100
MAX_RESOURCES = 1000


class Wanted(msgspec.Struct, rename="camel", omit_defaults=True):
    """What a client asks to hear, and what it is told it will."""

    tools_list_changed: bool = False
    prompts_list_changed: bool = False
    resources_list_changed: bool = False
    resource_subscriptions: list[str] = []

    def kinds(self) -> frozenset[str]:
        """The lists whose changes are meant."""
        asked = {
            "tools": self.tools_list_changed,
            "prompts": self.prompts_list_changed,
            "resources": self.resources_list_changed,
        }
        return frozenset(kind for kind, wanted in asked.items() if wanted)


def wanted_of(params: Params) -> Wanted:
    """Raises InvalidParams."""
    try:
        wanted = msgspec.json.decode(params.get("notifications", b"null"), type=Wanted)
    except msgspec.DecodeError as error:
        raise InvalidParams(f"params.notifications is not what can be listened to: {error}") from error
    if len(wanted.resource_subscriptions) > MAX_RESOURCES:
        raise InvalidParams(f"params.notifications.resourceSubscriptions has more than {MAX_RESOURCES} entries")
    return wanted


class Subscription:
    """One stream, and what it asked for. What is said before it is acknowledged is kept until then."""

    def __init__(self, request: Envelope, headers: HeaderList) -> None:
        self.id = jsonrpc.raw(request.id)
        self.request_id = request.id
        self.meta: Params = {name: value for name, value in request.neutral.items() if name == "_meta"}
        self.headers = headers
        self.kinds: frozenset[str] = frozenset()
        self.resources: dict[Resource, str] = {}
        """Each with the URI that the client calls it by."""
        self.sessions: dict[str, UpstreamSession | None] = {}
        """By upstream: where its resources are subscribed to."""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._over = False
        self._stream: EventStream | None = None

    def __repr__(self) -> str:
        return f"<Subscription to {len(self.kinds)} lists and {len(self.resources)} resources>"

    def begin(self, stream: EventStream, kinds: frozenset[str]) -> None:
        """Say what will be heard, and then what was held back until now."""
        self.kinds = kinds
        honoured = Wanted(
            "tools" in kinds, "prompts" in kinds, "resources" in kinds, list(dict.fromkeys(self.resources.values()))
        )
        stream.start()
        stream.put_surely(jsonrpc.notification(ACKNOWLEDGED, self._stamped({"notifications": jsonrpc.raw(honoured)})))
        self._stream = stream
        for message in self._held:
            stream.put(message)
        self._held.clear()
        if self._over:
            self.end()

    def list_changed(self, kind: str) -> None:
        if kind in self.kinds and self._stream is not None:
            self._stream.put_surely(jsonrpc.notification(f"notifications/{kind}/list_changed", self._stamped({})))

    def updated(self, resource: Resource, params: Params) -> None:
        told = told_as(self.resources, *resource)
        if told is None:
            return
        message = jsonrpc.notification(UPDATED, self._stamped(params | {"uri": jsonrpc.raw(told)}))
        if self._stream is not None:
            self._stream.put(message)
        else:
            self._hold(message)

    def _hold(self, message: bytes) -> None:
        """Keep a message until the stream begins, within the bounds that it then has."""
        if len(self._held) < QUEUED_EVENTS and self._held_bytes < QUEUED_BYTES:
            self._held.append(message)
            self._held_bytes += len(message)

    def end(self) -> None:
        """End the stream with the request's result; at once where it has not begun yet."""
        self._over = True
        if self._stream is not None:
            meta = {SUBSCRIPTION_META: self.id, SERVER_INFO_META: Raw(GATEWAY_INFO)}
            result = msgspec.json.encode({"resultType": "complete", "_meta": meta})
            self._stream.put_surely(jsonrpc.result(self.request_id, result))
            self._stream.end()

    def _stamped(self, params: Params) -> bytes:
        meta = jsonrpc.object_of(params.get("_meta", b"{}")) | {SUBSCRIPTION_META: self.id}
        return msgspec.json.encode(params | {"_meta": jsonrpc.raw(meta)})


class Listening:
    """All streams. Resources are subscribed to once per principal, and no longer when its last stream for them ends."""

    def __init__(
        self, resources: ResourceService, handshake: Handshake, forward: Forward, announcer: Announcer, sweep: Sweep
    ) -> None:
        self._resources = resources
        self._handshake = handshake
        self._forward = forward
        self._announcer = announcer
        self._sweep = sweep
        self.per_user = MAX_STREAMS_PER_USER
        self._open: dict[Subscription, Caller] = {}
        # Subscribing and unsubscribing must reach an upstream in the order in which they were decided on.
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._beating: asyncio.Task[None] | None = None
        self.deadline = 0.0

    def __repr__(self) -> str:
        return f"<Listening on {len(self._open)} streams>"

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, request: Envelope, exchange: Exchange, caller: Caller) -> None:
        """Answer one request, until its client leaves or the gateway ends. Raises GatewayError before the stream begins."""
        wanted = wanted_of(request.params)
        if sum(each.user == caller.user for each in self._open.values()) >= self.per_user:
            raise Busy(f"{self.per_user} streams of this principal are open; end some of them first")
        subscription = Subscription(request, exchange.header_list)
        stream = EventStream(exchange, self._sweep)
        leaving = Leaving()
        self._add(subscription, caller)
        try:
            # Before anything is waited for: a server that does not answer must not keep the stream of a client that is gone.
            exchange.when_left(leaving.cancel)
            subscription.begin(stream, await self._prepare(subscription, caller, wanted))
            await stream.ended()
        except asyncio.CancelledError:
            if not leaving.was_all():
                raise
        finally:
            leaving.over = True
            self._remove(subscription, caller)
            await stream.cut()

    async def _prepare(self, subscription: Subscription, caller: Caller, wanted: Wanted) -> frozenset[str]:
        """Subscribe to what is wanted. The lists whose changes will be heard."""
        call = self._call("ping", subscription, caller)
        if caller.view.single:
            # What a server says to one session alone is heard only in a session that is open.
            await self._forward.send(caller.view.only, caller, call, NoChannel())
        announced = await self._handshake.announces(caller.view, caller, call)
        await asyncio.gather(*(self._subscribe(subscription, caller, uri) for uri in wanted.resource_subscriptions))
        return wanted.kinds() & announced

    def end_all(self) -> None:
        """Tell all that listen that it is over."""
        for subscription in tuple(self._open):
            subscription.end()

    def end_of(self, caller: Caller) -> None:
        """Tell one caller that it is over."""
        for subscription, each in tuple(self._open.items()):
            if each is caller:
                subscription.end()

    def _add(self, subscription: Subscription, caller: Caller) -> None:
        self._open[subscription] = caller
        caller.streams.add(subscription)
        if not caller.listening:
            caller.listening = True
            self._announcer.conversations.add(caller)
            self._forward.listen(caller)

    def _remove(self, subscription: Subscription, caller: Caller) -> None:
        del self._open[subscription]
        caller.streams.discard(subscription)
        for resource in tuple(subscription.resources):
            self._drop(resource, subscription, caller)
            runtime.spawn(self._unsubscribe(resource, subscription, caller), "unsubscribe from a resource")
        if not caller.streams:
            caller.listening = False
            self._announcer.conversations.discard(caller)
            self._forward.stop_listening(caller)

    def _drop(self, resource: Resource, subscription: Subscription, caller: Caller) -> None:
        """The stream is not for this resource any more."""
        subscription.resources.pop(resource, None)
        if not any(resource in each.resources for each, whose in self._open.items() if whose is caller):
            caller.subscriptions.pop(resource, None)

    def _is_wanted(self, resource: Resource, caller: Caller) -> bool:
        """Whether any stream of this principal is for this resource: callers of one principal may share a session."""
        return any(resource in subscription.resources for subscription, each in self._open.items() if each.user == caller.user)

    def _call(self, method: str, subscription: Subscription, caller: Caller, uri: str = "") -> Call:
        params = subscription.meta | ({"uri": jsonrpc.raw(uri)} if uri else {})
        return Call(method, params, client=caller, client_headers=subscription.headers)

    async def _subscribe(self, subscription: Subscription, caller: Caller, uri: str) -> None:
        """Subscribe to one resource. What cannot be subscribed to is left out, and not acknowledged."""
        call = self._call("resources/subscribe", subscription, caller, uri)
        try:
            upstream, own = await self._resources.owner(caller.view, caller, call, uri)
            async with self._lock(caller, upstream.slug):
                await self._subscribe_at(upstream, own, uri, subscription, caller)
        except GatewayError as error:
            _log.info("a resource was not subscribed to: %s", error)
            return
        self._beat_on()

    async def _subscribe_at(self, upstream: Upstream, own: str, uri: str, subscription: Subscription, caller: Caller) -> None:
        resource = (upstream.slug, own)
        # Known before it is asked for, so that nothing is missed that is said at once.
        subscription.resources[resource] = uri
        caller.subscriptions[resource] = name_of(resource)
        call = self._call("resources/subscribe", subscription, caller, own)
        try:
            await self._resources.watch(upstream, caller, call)
            binding = caller.bindings[upstream.slot_of(caller.id, call)]
            if not binding.kept:
                raise InvalidParams(f"upstream {upstream.name!r} keeps no session, in which it could be heard")
        except GatewayError:
            self._drop(resource, subscription, caller)
            raise
        subscription.sessions[upstream.slug] = binding.session

    async def _unsubscribe(self, resource: Resource, subscription: Subscription, caller: Caller) -> None:
        """Unsubscribe from one resource, unless another stream wants it."""
        slug, own = resource
        upstream = caller.view.upstreams.get(slug)
        if upstream is None:
            return
        call = self._call("resources/unsubscribe", subscription, caller, own)
        async with self._lock(caller, slug):
            if self._is_wanted(resource, caller):
                return
            try:
                await self._forward.send(upstream, caller, call, NoChannel())
            except GatewayError as error:
                _log.info("a resource was not unsubscribed from: %s", error)

    def _lock(self, caller: Caller, slug: str) -> asyncio.Lock:
        lock = self._locks.get((caller.user, slug))
        if lock is None:
            lock = self._locks[caller.user, slug] = asyncio.Lock()
        return lock

    def _beat_on(self) -> None:
        self.deadline = self._sweep.now() + BEAT_SECONDS
        self._sweep.watch(self)

    def expire(self) -> None:
        """Time to look after the subscriptions; again later, while there are any."""
        if self._beating is None or self._beating.done():
            self._beating = runtime.spawn(self.beat(), "look after subscriptions")
        if any(subscription.resources for subscription in self._open):
            self._beat_on()

    async def beat(self) -> None:
        """Keep the sessions warm that hold subscriptions, and make those anew that were lost with their session."""
        pairs = [
            (subscription, caller, caller.view.upstreams[slug])
            for subscription, caller in self._open.items()
            for slug in {slug for slug, _ in subscription.resources}
            if slug in caller.view.upstreams
        ]
        await asyncio.gather(*(self._look_after(*pair) for pair in pairs))

    async def _look_after(self, subscription: Subscription, caller: Caller, upstream: Upstream) -> None:
        call = self._call("ping", subscription, caller)
        try:
            await self._forward.send(upstream, caller, call, NoChannel())
            session = caller.bindings[upstream.slot_of(caller.id, call)].session
            if session is subscription.sessions.get(upstream.slug) or subscription not in self._open:
                return
            # What changed meanwhile nobody has said: so it may be anything.
            own = [resource for resource in subscription.resources if resource[0] == upstream.slug]
            for resource in own:
                renewed = self._call("resources/subscribe", subscription, caller, resource[1])
                await self._resources.watch(upstream, caller, renewed)
            subscription.sessions[upstream.slug] = session
        except GatewayError as error:
            _log.info("subscriptions at upstream %r wait for it: %s", upstream.name, error)
            return
        for resource in own:
            subscription.updated(resource, {"uri": jsonrpc.raw(subscription.resources[resource])})
        for kind in LIST_CHANGES.values():
            subscription.list_changed(kind)
