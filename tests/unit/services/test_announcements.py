"""What an upstream says outside calls, and who hears it."""

from __future__ import annotations

import json

import pytest

from mcpgateway.auth.access import Access
from mcpgateway.auth.credentials import StaticCredentials
from mcpgateway.auth.principals import Principal
from mcpgateway.config import AccessRule, ServerConfig
from mcpgateway.metrics import UpstreamFigures
from mcpgateway.pool.breaker import Breaker
from mcpgateway.pool.key import Terms
from mcpgateway.runtime import Sweep
from mcpgateway.services.announcements import Announcer
from mcpgateway.services.catalog import Catalog
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.forward import Forward
from mcpgateway.services.null_pool import NullPool
from mcpgateway.services.upstream import Upstream
from mcpgateway.upstream.open import Opener

UPDATED = "notifications/resources/updated"
URI = "demo://one"


QUALIFIED = "crm+demo://folder"


class Listening(Conversation):
    """A conversation that writes down what its client would hear."""

    def __init__(self) -> None:
        super().__init__("c", Principal("static", "alice"), "2025-11-25")
        self.heard: list[tuple[str, bytes]] = []
        self.subscriptions["crm", URI] = URI

    def push(self, method: str, params: bytes) -> None:
        self.heard.append((method, params))


def scene(rules: list[AccessRule] | None = None) -> tuple[Announcer, Upstream, Listening]:
    """An upstream whose sessions alice hears."""
    sweep = Sweep()
    forward = Forward(NullPool(sweep), Opener(sweep), Terms())
    announcer, alice = Announcer(Catalog(forward), Access(rules)), Listening()
    announcer.conversations.add(alice)
    server = ServerConfig(name="crm", slug="crm", url="http://crm.test/mcp")
    return announcer, Upstream(server, StaticCredentials(), Breaker(), UpstreamFigures()), alice


@pytest.mark.parametrize("policy", ["bound", "shared"])
@pytest.mark.parametrize("params", [b"[]", b"{}", b'{"uri":5}', b'"demo://one"', b"null", b'{"uri":null}', b"{"])
async def test_an_update_that_names_no_resource_is_left_out_and_the_next_is_heard(
    policy: str, params: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    announcer, upstream, alice = scene()
    listener = announcer.listener(upstream, alice, policy)
    with caplog.at_level("INFO"):
        listener.notified(UPDATED, params)
    assert alice.heard == [] and "'crm' said that a resource changed, but not which" in caplog.text
    good = b'{"uri":"demo://one"}'
    listener.notified(UPDATED, good)
    assert alice.heard == [(UPDATED, good)]


@pytest.mark.parametrize("policy", ["bound", "shared"])
@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("demo://one/part", "demo://one/part"),
        ("demo://one/a/b", "demo://one/a/b"),
        ("demo://folder", QUALIFIED),
        ("demo://folder/part", f"{QUALIFIED}/part"),
        ("demo://oneself", None),
        ("demo://on", None),
        ("demo://", None),
        ("other://one/part", None),
    ],
)
async def test_an_update_of_a_part_of_a_resource_is_told_to_who_subscribed_to_the_whole(
    policy: str, uri: str, told: str | None
) -> None:
    announcer, upstream, alice = scene()
    alice.subscriptions |= {("crm", "demo://folder"): QUALIFIED, ("erp", "other://one"): "other://one"}
    announcer.listener(upstream, alice, policy).notified(UPDATED, b'{"uri":"%b","more":1}' % uri.encode())
    assert [json.loads(params) for _, params in alice.heard] == ([{"uri": told, "more": 1}] if told else [])


async def test_of_several_subscriptions_an_update_is_told_once_by_the_nearest() -> None:
    announcer, upstream, alice = scene()
    alice.subscriptions = {("crm", "a://"): "crm+a://", ("crm", "a://b/"): "a://b/", ("crm", "a://b/c/d"): "crm+a://b/c/d"}
    for uri in ("a://b/c", "a://b/c/d", "a://x"):
        announcer.listener(upstream, alice, "bound").notified(UPDATED, b'{"uri":"%b"}' % uri.encode())
    assert [json.loads(params)["uri"] for _, params in alice.heard] == ["a://b/c", "crm+a://b/c/d", "crm+a://x"]


async def test_an_update_of_a_part_that_may_not_be_read_is_not_told() -> None:
    announcer, upstream, alice = scene([AccessRule(servers=("crm",), resources=("demo://one", "demo://one/open"))])
    for part in ("open", "closed"):
        announcer.listener(upstream, alice, "bound").notified(UPDATED, b'{"uri":"demo://one/%b"}' % part.encode())
    assert [json.loads(params)["uri"] for _, params in alice.heard] == ["demo://one/open"]
