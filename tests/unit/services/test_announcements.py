"""What an upstream says outside calls, and who hears it."""

from __future__ import annotations

import pytest

from mcpgateway.auth.access import Access
from mcpgateway.auth.credentials import StaticCredentials
from mcpgateway.auth.principals import Principal
from mcpgateway.config import ServerConfig
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


class Listening(Conversation):
    """A conversation that writes down what its client would hear."""

    def __init__(self) -> None:
        super().__init__("c", Principal("static", "alice"), "2025-11-25")
        self.heard: list[tuple[str, bytes]] = []
        self.subscriptions["crm", URI] = URI

    def push(self, method: str, params: bytes) -> None:
        self.heard.append((method, params))


@pytest.mark.parametrize("policy", ["bound", "shared"])
@pytest.mark.parametrize("params", [b"[]", b"{}", b'{"uri":5}', b'"demo://one"', b"null", b'{"uri":null}', b"{"])
async def test_an_update_that_names_no_resource_is_left_out_and_the_next_is_heard(
    policy: str, params: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = Sweep()
    forward = Forward(NullPool(sweep), Opener(sweep), Terms())
    announcer, alice = Announcer(Catalog(forward), Access(None)), Listening()
    announcer.conversations.add(alice)
    server = ServerConfig(name="crm", slug="crm", url="http://crm.test/mcp")
    upstream = Upstream(server, StaticCredentials(), Breaker(), UpstreamFigures())
    listener = announcer.listener(upstream, alice, policy)
    with caplog.at_level("INFO"):
        listener.notified(UPDATED, params)
    assert alice.heard == [] and "'crm' said that a resource changed, but not which" in caplog.text
    good = b'{"uri":"demo://one"}'
    listener.notified(UPDATED, good)
    assert alice.heard == [(UPDATED, good)]
