"""What travels is not altered: a result reaches the client as the bytes that the upstream sent."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.clients.driver import Driver2x
from tests.clients.wire import Wire
from tests.fakes.gateway import serving
from tests.fakes.mcp_script import Message, json_of, playing, say_events, say_json
from tests.fakes.scripted import Talk
from tests.fakes.stub_server import StubServer
from tests.servers.http11 import Request

MIB = 1024 * 1024

RESULTS = {
    "unknown fields": '{"content":[],"x-new":{"deep":[1,{"y":null}]},"_meta":{"com.example/a":1},"isError":false}',
    "unknown content type": '{"content":[{"type":"hologram","frames":[1,2],"text":7}],"structuredContent":null}',
    "integers over 64 bit": '{"content":[],"n":123456789012345678901234567890,"m":-9223372036854775809}',
    "numbers written oddly": '{"content":[],"a":1.0,"b":1e400,"c":-0,"d":0.1000000000000000055511151231257827,"e":1E+2}',
    "duplicate keys": '{"content":[],"same":1,"same":2,"content":[{"type":"text","text":"b"}]}',
    "not ASCII": '{"content":[{"type":"text","text":"grüß 漢字 😀 \u2028\u2029\u0085"}]}',
    "escapes": '{"content":[{"type":"text","text":"\\u00e4\\/\\ud83d\\ude00\\n\\u2028"}]}',
    "spaces": '{ "content" : [ ] ,\t"a":  [1 , 2] }',
    "deep": '{"content":[],"a":' + "[" * 200 + "]" * 200 + "}",
    "an error that is a result": '{"isError":true,"content":[{"type":"text","text":"no such row"}]}',
    "1 MiB of text": json.dumps({"content": [{"type": "text", "text": "ä" * (MIB // 2)}]}, ensure_ascii=False),
    "5 MiB in one string": json.dumps({"content": [{"type": "text", "text": "x" * 5 * MIB}]}),
    "empty": "{}",
}


@pytest.mark.parametrize("endpoint", ["one", "all"])
@pytest.mark.parametrize("form", ["json", "sse"])
async def test_c4_a_result_arrives_as_the_bytes_that_were_sent(form: str, endpoint: str, stub: StubServer) -> None:
    await stub.do(answer=form)
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, asyncio.timeout(20):
        url = gateway.server("up") if endpoint == "one" else gateway.url
        async with Wire(url, unchecked="the server invents content") as client:
            await client.initialize()
            for text in RESULTS.values():
                await stub.do(raw_result=text)
                call = client.request_message("tools/call", {"name": "echo" if endpoint == "one" else "up__echo"})
                reply = await client.post(call)
                assert reply.status == 200
                assert reply.body == json_of(call, text)


CALLS: dict[str, Message] = {
    "tools/call": {"name": "once"},
    "resources/read": {"uri": "demo://one"},
    "prompts/get": {"name": "greet"},
    "completion/complete": {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "a", "value": "b"}},
}


@pytest.mark.parametrize("method", CALLS)
async def test_c4_every_kind_of_result_passes_unaltered_and_so_do_the_params(method: str) -> None:
    text = RESULTS["integers over 64 bit"][:-1] + ',"same":1,"same":2}'
    extra = '"x":{"big":123456789012345678901234567890,"same":1,"same":2,"t":"\\u00e4\\/"}'
    seen: list[bytes] = []

    async def take(talk: Talk, request: Request, message: Message) -> None:
        seen.append(request.body)
        await say_json(talk, message, text)

    async with playing() as upstream, serving({"mcpServers": {"up": {"url": upstream.url}}}) as gateway:
        upstream.take = take
        async with Wire(gateway.server("up")) as client, asyncio.timeout(20):
            client.unchecked = "the server gives results that no request of this method has"
            await client.initialize()
            params = json.dumps(CALLS[method])[:-1] + "," + extra + "}"
            body = f'{{"jsonrpc":"2.0","id":"i","method":"{method}","params":{params}}}'
            reply = await client.post(body.encode())
            assert reply.body == b'{"jsonrpc":"2.0","id":"i","result":' + text.encode() + b"}"
    assert extra.encode() in seen[-1]


async def test_c4_a_result_after_events_passes_unaltered_too() -> None:
    text = RESULTS["duplicate keys"]
    data = b'"data":{"n":123456789012345678901234567890}'
    note = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info",%b}}' % data

    async def take(talk: Talk, request: Request, message: Message) -> None:
        await say_events(talk, note, json_of(message, text))

    async with playing() as upstream, serving({"mcpServers": {"up": {"url": upstream.url}}}) as gateway:
        upstream.take = take
        async with Wire(gateway.server("up")) as client, asyncio.timeout(20):
            client.unchecked = "the server invents content"
            await client.initialize()
            call = client.request_message("tools/call", {"name": "once"})
            reply = await client.post(call)
            assert b"data: " + json_of(call, text) + b"\n" in reply.body
            assert data in reply.body


@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad Request", b"500 Internal Server Error"])
async def test_c4_the_servers_own_error_passes_unaltered(status: bytes) -> None:
    error = b'{"code":-32042,"message":"gr\xc3\xbc\xc3\x9f","data":{"n":123456789012345678901234567890,"x":1,"x":2}}'

    async def take(talk: Talk, request: Request, message: Message) -> None:
        body = b'{"jsonrpc":"2.0","id":%d,"error":%b}' % (message["id"], error)
        await talk.say(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
        )

    async with playing() as upstream, serving({"mcpServers": {"up": {"url": upstream.url}}}) as gateway:
        upstream.take = take
        async with Wire(gateway.server("up")) as client, asyncio.timeout(20):
            client.unchecked = "the server's error has data of its own invention"
            await client.initialize()
            call = client.request_message("tools/call", {"name": "once"})
            reply = await client.post(call)
            assert reply.body == b'{"jsonrpc":"2.0","id":%d,"error":%b}' % (call["id"], error)


async def test_c4_list_entries_keep_what_this_gateway_does_not_know(stub: StubServer) -> None:
    async with asyncio.timeout(20), serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, Wire(stub.url) as direct:
        await direct.initialize()
        async with Wire(gateway.server("up")) as client:
            await client.initialize()
            assert await client.request("tools/list") == await direct.request("tools/list")


async def test_a_large_result_reaches_the_sdks_client(client_2x: Driver2x, stub: StubServer) -> None:
    text = "x" * 3 * MIB
    await stub.do(answer="sse", raw_result=json.dumps({"content": [{"type": "text", "text": text}]}))
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway:
        steps = [{"do": "call", "tool": "echo", "arguments": {}}]
        (outcome,) = await client_2x.run({"transport": "http", "url": gateway.server("up"), "steps": steps})
        assert outcome["result"]["content"][0]["text"] == text
