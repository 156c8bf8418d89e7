"""The upstream that the faults stand before."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.cuttable_proxy import CuttableProxy
from tests.servers.raw_stub import Stub


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    """The recording stub, in the loop of the test."""
    async with Stub() as server:
        yield server


@pytest.fixture
async def proxy(stub: Stub) -> AsyncIterator[CuttableProxy]:
    """A proxy before the stub, sound until told otherwise."""
    async with CuttableProxy(stub.port) as proxy:
        yield proxy
