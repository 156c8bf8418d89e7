"""What clients answer to questions, in the ways that they write it."""

from __future__ import annotations

import asyncio
import json

import pytest

from mcpgateway.auth.principals import Principal
from mcpgateway.downstream.sessions import ClientSession
from mcpgateway.errors import RpcError
from mcpgateway.protocol import jsonrpc
from mcpgateway.runtime import Sweep
from mcpgateway.services.views import View


async def answer_to(fields: str) -> bytes:
    """What a question comes to that is answered with these fields beside the id."""
    view = View({}, single=False)
    session = ClientSession(Principal("static", "alice"), view, "2025-11-25", b'{"roots":{}}', b"{}", Sweep())
    asked: asyncio.Queue[bytes] = asyncio.Queue()
    asking = asyncio.create_task(session.ask_on(asked.put_nowait, "roots/list", b"{}", set()))
    async with asyncio.timeout(5):
        id = json.loads(await asked.get())["id"]
        session.answered(jsonrpc.decode(f'{{"jsonrpc":"2.0","id":"{id}",{fields}}}'.encode()))
        return await asking


@pytest.mark.parametrize(
    "fields", ['"result":{"roots":[]}', '"result":{"roots":[]},"error":null', '"error": null ,"result":{"roots":[]}']
)
async def test_an_error_that_is_null_is_none(fields: str) -> None:
    assert json.loads(await answer_to(fields)) == {"roots": []}


async def test_an_error_beside_a_result_that_is_null_is_one() -> None:
    with pytest.raises(RpcError) as refused:
        await answer_to('"result":null,"error":{"code":-1,"message":"no"}')
    assert refused.value.code == -1


async def test_an_answer_with_neither_is_an_error_to_whoever_asked() -> None:
    with pytest.raises(RpcError) as refused:
        await answer_to('"error":null')
    assert b"neither a result nor an error" in refused.value.error
