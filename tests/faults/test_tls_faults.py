"""Whatever goes wrong in the TLS handshake with an upstream: a clear error in time, and nothing of it stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients.messages import text_of
from tests.fakes.cuttable_proxy import CONNECTIONS, CuttableProxy
from tests.faults.scene import client_of, expect_clear_error, expect_recovery, scene
from tests.servers.certificates import Authority
from tests.servers.raw_stub import Stub


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def proxy(stub: Stub, authority: Authority) -> AsyncIterator[CuttableProxy]:
    """A proxy that serves TLS, sound until told otherwise."""
    async with CuttableProxy(stub.port, authority.serving()) as proxy:
        yield proxy


@pytest.mark.parametrize("fault", list(CONNECTIONS))
@pytest.mark.parametrize("warm", [False, True], ids=["first call", "warm session"])
async def test_u4_a_handshake_that_breaks(
    warm: bool, fault: str, proxy: CuttableProxy, stub: Stub, authority: Authority, tmp_path: Path
) -> None:
    trust = {"tls": {"ca": authority.write_own(tmp_path)}, "timeout_seconds": 2}
    async with scene(proxy, stub, **trust) as here, client_of(here, warm=warm) as client, asyncio.timeout(20):
        await proxy.break_at("tls", fault)
        began = asyncio.get_running_loop().time()
        expect_clear_error(await here.call(client))
        assert asyncio.get_running_loop().time() - began < 8, "twice the time-out, for a call may be repeated, and some"
        assert proxy.struck.is_set()
        await expect_recovery(here)
        assert text_of(await here.call(client, "healed")) == "healed"


@pytest.mark.parametrize("fault", ["expired", "signed by nobody known", "for another host"])
async def test_u11_a_certificate_that_cannot_be_trusted(
    fault: str, proxy: CuttableProxy, stub: Stub, authority: Authority, tmp_path: Path
) -> None:
    trust = {"tls": {"ca": authority.write_own(tmp_path)}}
    async with scene(proxy, stub, **trust) as here, client_of(here, warm=True) as client, asyncio.timeout(20):
        if fault == "expired":
            await proxy.serve_with(authority.serving(days=-1))
        elif fault == "signed by nobody known":
            await proxy.serve_with(Authority("somebody else").serving())
        else:
            await proxy.serve_with(authority.serving("192.0.2.1"))
        calls = len(stub.of("tools/call"))
        message = await here.call(client)
        expect_clear_error(message)
        assert "TLS" in message["error"]["message"] or "certificate" in message["error"]["message"]
        assert len(stub.of("tools/call")) == calls, "nothing was said to it"
        await here.until_nothing_is_left()
        await proxy.serve_with(authority.serving())
        assert text_of(await here.call(client, "healed")) == "healed"
