"""stdio downstream: the client that starts the gateway as its server, in this process over pipes, and as a real program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, types
from mcp.client.stdio import stdio_client

from mcpgateway import config, runtime
from mcpgateway.app import Gateway
from mcpgateway.downstream.stdio import Stdio
from mcpgateway.errors import ConfigError
from tests.clients.driver import Driver
from tests.clients.messages import request, text_of
from tests.clients.wire import Message
from tests.fakes.gateway import one
from tests.fakes.process import PROJECT, Server
from tests.fakes.programs import fastmcp_1x_command
from tests.fakes.until import until
from tests.integration.battery import FASTMCP, Target, run_in_one_session
from tests.servers.http11 import Request
from tests.servers.talking_stub import TalkingStub, talk


@pytest.fixture
async def stub() -> AsyncIterator[TalkingStub]:
    async with TalkingStub() as server:
        yield server


def hello(capabilities: Message | None = None) -> Message:
    info = {"name": "desktop", "version": "1"}
    return request("initialize", 0, protocolVersion="2025-11-25", capabilities=capabilities or {}, clientInfo=info)


class Desk:
    """A client that started a gateway, and the gateway."""

    def __init__(self, gateway: Gateway, edge: Stdio, said: asyncio.StreamReader, speaking: int) -> None:
        self.gateway = gateway
        self.edge = edge
        self._said = said
        self._speaking = speaking

    def say(self, message: object) -> None:
        os.write(self._speaking, message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")

    def leave(self) -> None:
        """Say no more. Idempotent."""
        speaking, self._speaking = self._speaking, -1
        if speaking >= 0:
            os.close(speaking)

    async def next(self) -> Message:
        line = await self._said.readline()
        assert line.endswith(b"\n"), f"the stream ended with {line!r}"
        message: Message = json.loads(line)
        return message

    async def ask(self, message: object) -> Message:
        self.say(message)
        return await self.next()

    async def rest(self) -> list[Message]:
        """All until the gateway closes its end."""
        return [json.loads(line) for line in (await self._said.read()).splitlines()]


@contextlib.asynccontextmanager
async def desk_of(document: dict[str, Any], server: str = "up", capabilities: Message | None = None) -> AsyncIterator[Desk]:
    """A gateway at the other end of two pipes, initialized."""
    gateway = Gateway(config.parse(json.dumps(document), "test.json", {}))
    (source, speaking), (hearing, sink) = os.pipe(), os.pipe()
    said = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    heard, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(said), os.fdopen(hearing, "rb"))
    edge = gateway.stdio(server, source, sink)
    desk = Desk(gateway, edge, said, speaking)
    await gateway.start()
    serving = asyncio.create_task(edge.serve())
    serving.add_done_callback(lambda _: os.close(sink))
    try:
        async with asyncio.timeout(20):
            assert (await desk.ask(hello(capabilities)))["id"] == 0
            desk.say({"jsonrpc": "2.0", "method": "notifications/initialized"})
            yield desk
    finally:
        desk.leave()
        async with asyncio.timeout(20):
            await serving
        await gateway.stop()
        heard.close()
        os.close(source)


async def test_calls_run_at_the_same_time_and_a_question_is_asked_and_answered(stub: TalkingStub) -> None:
    async with desk_of(one(stub.url), capabilities={"elicitation": {}}) as desk:
        for id, text in enumerate("ab"):
            desk.say(talk(text, id, token=text))
        await until(lambda: len(stub.talks) == 2)
        stub.talks["b"].progress(1)
        assert (await desk.next())["params"] == {"progressToken": "b", "progress": 1}
        stub.talks["a"].ask()
        question = await desk.next()
        said = {"action": "accept", "content": {"name": "ada"}}
        desk.say({"jsonrpc": "2.0", "id": question["id"], "result": said})
        await until(lambda: bool(stub.answers()))
        assert stub.answers()[0]["result"] == said
        for id, text in ((1, "b"), (0, "a")):
            stub.talks[text].answer(text)
            response = await desk.next()
            assert (response["id"], text_of(response)) == (id, text)


async def test_a_cancelled_call_is_cancelled_upstream_and_not_answered(stub: TalkingStub) -> None:
    async with desk_of(one(stub.url)) as desk:
        desk.say(talk("a", "x"))
        await until(lambda: "a" in stub.talks)
        desk.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "x"}})
        await until(lambda: len(stub.told("notifications/cancelled")) == 1)
        assert (await desk.ask(request("ping", "after")))["id"] == "after"


async def test_what_is_said_outside_calls_is_heard(stub: TalkingStub) -> None:
    async with desk_of(one(stub.url)) as desk:
        await desk.ask(request("tools/call", name="counter", arguments={}))
        own = stub.of("tools/call")[0]["session"]
        await until(lambda: own in stub._streams.values())
        said = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "now"}}
        stub.do({"notify": said, "session": own})
        assert await desk.next() == said


@pytest.mark.parametrize(
    ("line", "id", "code"),
    [
        (b"nonsense\n", "server-error", -32700),
        (b"[]\n", "server-error", -32600),
        (b'{"jsonrpc":"1.0","id":7,"method":"ping"}\n', 7, -32600),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":[]}\n', "server-error", -32602),
        (b'{"jsonrpc":"2.0","id":"a","method":"nothing"}\n', "a", -32601),
        (b'"' + b"x" * 2000 + b'"\n', "server-error", -32600),
    ],
)
async def test_what_is_no_message_is_answered_with_an_error_and_the_next_one_is_read(
    line: bytes, id: object, code: int, stub: TalkingStub
) -> None:
    async with desk_of(one(stub.url, {"limits": {"body_bytes": 1024}})) as desk:
        answer = await desk.ask(line)
        assert (answer.get("id"), answer["error"]["code"]) == (id, code)
        assert (await desk.ask(b"\r\n" + json.dumps(request("ping", "p")).encode() + b"\r\n"))["id"] == "p"


async def test_an_id_that_is_in_flight_is_refused_and_its_first_call_is_still_waited_for(stub: TalkingStub) -> None:
    async with desk_of(one(stub.url)) as desk:
        desk.say(talk("a", "same"))
        assert (await desk.ask(request("ping", "same"))).get("id") == "server-error"
        await until(lambda: "a" in stub.talks)
        stub.talks["a"].answer("first")
        assert text_of(await desk.next()) == "first"


async def test_a_client_that_leaves_gets_the_answers_that_are_on_their_way(stub: TalkingStub) -> None:
    async with desk_of(one(stub.url)) as desk:
        await desk.ask(request("tools/call", name="counter", arguments={}))
        desk.say(talk("a", 2))
        await until(lambda: "a" in stub.talks)
        desk.leave()
        stub.talks["a"].answer("last")
        assert [text_of(message) for message in await desk.rest()] == ["last"]
    assert len(stub.seen.deletes) == len(stub.seen.sessions) and runtime.running_tasks() == []


async def test_when_told_to_end_it_ends_whatever_is_in_flight(stub: TalkingStub) -> None:
    async with desk_of(one(stub.url)) as desk:
        desk.say(talk("a", 2))
        await until(lambda: "a" in stub.talks)
        desk.edge.end()
        assert await desk.rest() == []
        await until(lambda: len(stub.told("notifications/cancelled")) == 1)


async def test_a_session_that_must_end_says_why_and_ends(stub: TalkingStub) -> None:
    document = {"mcpServers": {"up": {"url": stub.url, "sessions": "bound", "on_session_loss": "end"}}}
    async with desk_of(document) as desk:
        await desk.ask(request("tools/call", name="counter", arguments={}))
        stub.do({"forget_sessions": "404"})
        assert "lost this session's state" in (await desk.ask(request("tools/call", name="counter")))["error"]["message"]
        assert await desk.rest() == []


async def test_c4_a_result_with_line_ends_in_it_stays_one_line_and_the_same_value(stub: TalkingStub) -> None:
    stub.do({"raw_result": '{\n  "content": [],\r\n  "structuredContent": {"text": "two\\nlines"}\n}'})
    async with desk_of(one(stub.url)) as desk:
        answer = await desk.ask(request("tools/call", name="echo", arguments={}))
        assert answer["result"] == {"content": [], "structuredContent": {"text": "two\nlines"}}


async def test_a_server_that_is_not_there_is_said_with_those_that_are(stub: TalkingStub) -> None:
    gateway = Gateway(config.parse(json.dumps(one(stub.url)), "test.json", {}))
    with pytest.raises(ConfigError, match=r"no server 'down'.* up"):
        gateway.stdio("down", 0, 1)
    await gateway.stop()


async def test_rules_of_access_hold_for_the_anonymous_caller_too(stub: TalkingStub) -> None:
    document = one(stub.url, {"access": [{"who": "everyone", "servers": ["up"], "tools": ["echo"]}]})
    async with desk_of(document, "") as desk:
        listed = await desk.ask(request("tools/list"))
        assert [tool["name"] for tool in listed["result"]["tools"]] == ["up__echo"]


ENVELOPE = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


def modern(method: str, id: object, capabilities: Message | None = None, **params: Any) -> Message:
    """A request of the generation that has no handshake."""
    declared = {"io.modelcontextprotocol/clientCapabilities": capabilities or {}}
    return request(method, id, **params, _meta={**ENVELOPE, **declared, "progressToken": id})


async def test_both_generations_are_spoken_on_one_pipe(stub: TalkingStub) -> None:
    async with desk_of(one(stub.url)) as desk:
        discovered = await desk.ask(modern("server/discover", "d"))
        assert "2026-07-28" in discovered["result"]["supportedVersions"]
        answer = await desk.ask(modern("tools/call", "m", name="echo", arguments={"text": "x"}))
        assert (answer["id"], answer["result"]["resultType"], text_of(answer)) == ("m", "complete", "x")
        answer = await desk.ask(request("tools/call", "l", name="echo", arguments={"text": "y"}))
        assert "resultType" not in answer["result"] and text_of(answer) == "y"
        wrong = modern("tools/call", "w", name="echo")
        wrong["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2027-01-01"
        assert (await desk.ask(wrong))["error"]["code"] == -32022


class Mirroring(TalkingStub):
    """A server with a tool whose argument is repeated in a header, where there are headers."""

    async def _result(self, request: Request, message: Message) -> str | None:
        if message["method"] != "tools/list":
            return await super()._result(request, message)
        schema = {"type": "object", "properties": {"text": {"type": "string", "x-mcp-header": "Text"}}}
        return json.dumps({"tools": [{"name": "echo", "inputSchema": schema}]})


async def test_a_modern_call_on_a_pipe_repeats_no_argument_in_a_header() -> None:
    async with Mirroring() as stub, desk_of(one(stub.url)) as desk:
        answer = await desk.ask(modern("tools/call", 1, name="echo", arguments={"text": "x"}))
        assert text_of(answer) == "x"


async def test_a_modern_call_is_told_of_and_cancelled_on_the_pipe(stub: TalkingStub) -> None:
    async with desk_of(one(stub.url)) as desk:
        for id, text in enumerate("ab"):
            desk.say(modern("tools/call", id, name="talk", arguments={"text": text}))
        await until(lambda: len(stub.talks) == 2)
        stub.talks["b"].progress(1)
        assert (await desk.next())["params"] == {"progressToken": 1, "progress": 1}
        assert (await desk.ask(modern("tools/list", 1)))["error"]["code"] == -32600
        desk.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 0}})
        await until(lambda: len(stub.told("notifications/cancelled")) == 1)
        stub.talks["b"].answer("b")
        assert text_of(await desk.next()) == "b"


async def test_a_modern_client_is_asked_by_an_answer(stub: TalkingStub) -> None:
    async with desk_of(one(stub.url)) as desk:
        call = {"name": "talk", "arguments": {"text": "a"}}
        desk.say(modern("tools/call", 1, {"elicitation": {}}, **call))
        await until(lambda: "a" in stub.talks)
        stub.talks["a"].ask()
        required = (await desk.next())["result"]
        ((key, question),) = required["inputRequests"].items()
        assert question["method"] == "elicitation/create"
        answers = {key: {"action": "accept", "content": {"name": "ada"}}}
        again = {**call, "inputResponses": answers, "requestState": required["requestState"]}
        desk.say(modern("tools/call", 2, {"elicitation": {}}, **again))
        await until(lambda: bool(stub.answers()))
        assert stub.answers()[0]["result"] == answers[key]
        stub.talks["a"].answer("thanks")
        answer = await desk.next()
        assert (answer["id"], text_of(answer)) == (2, "thanks")


async def test_a_modern_client_listens_until_it_takes_that_back_or_leaves(stub: TalkingStub) -> None:
    async with desk_of(one(stub.url), "") as desk:
        for id in ("one", "other"):
            said = await desk.ask(modern("subscriptions/listen", id, notifications={"toolsListChanged": True}))
            assert said["method"] == "notifications/subscriptions/acknowledged"
        desk.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "one"}})
        assert (await desk.ask(modern("tools/list", "l")))["id"] == "l"
        desk.leave()
        (last,) = await desk.rest()
        assert (last["id"], last["result"]["resultType"]) == ("other", "complete")


@pytest.mark.parametrize("mode", ["auto", "2026-07-28"])
async def test_the_sdks_own_client_in_its_modern_modes(mode: str, web_file: Path) -> None:
    asked: list[str] = []

    async def elicited(_context: object, params: types.ElicitRequestParams) -> types.ElicitResult:
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    command, *args = program(web_file, "--server", "up")
    transport = stdio_client(StdioServerParameters(command=command, args=args, env=dict(os.environ)))
    async with asyncio.timeout(30), Client(transport, mode=mode, elicitation_callback=elicited) as client:
        assert client.protocol_version == "2026-07-28"
        assert "add" in {tool.name for tool in (await client.list_tools()).tools}
        result = await client.call_tool("elicit", {"question": "who?"})
        assert asked == ["who?"] and "accept Ada" in str(result.content)


@pytest.fixture
def file(tmp_path: Path, stateful_1x: Server) -> Path:
    command, *args = fastmcp_1x_command("stdio")
    path = tmp_path / "mcp.json"
    servers = {"web": {"url": stateful_1x.url}, "child": {"command": command, "args": args}}
    path.write_text(json.dumps({"mcpServers": servers}))
    return path


@pytest.fixture
def web_file(tmp_path: Path, stateful_1x: Server) -> Path:
    path = tmp_path / "web.json"
    path.write_text(json.dumps(one(stateful_1x.url)))
    return path


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mcpgateway", "stdio", *map(str, arguments)]


async def test_the_battery_passes_over_a_program_that_the_client_starts(client: Driver, web_file: Path) -> None:
    await run_in_one_session(FASTMCP, client, Target("stdio", command=program(web_file, "--server", "up")))


async def test_the_battery_passes_over_all_servers_at_once(stateful_1x: Server, client_2x: Driver, web_file: Path) -> None:
    await run_in_one_session(FASTMCP, client_2x, Target("stdio", command=program(web_file), prefix="up__"))


@contextlib.asynccontextmanager
async def started(file: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program, initialized, with a call made to the server that is a child of its own."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*program(file), stdin=pipe, stdout=pipe, stderr=pipe, cwd=PROJECT)
    assert process.stdin is not None and process.stdout is not None
    call = request("tools/call", name="child__echo", arguments={"text": "x"})
    try:
        async with asyncio.timeout(30):
            for message in (hello(), call):
                process.stdin.write(json.dumps(message).encode() + b"\n")
                assert json.loads(await process.stdout.readline())["id"] == message["id"]
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def children_of(pid: int) -> list[int]:
    """All processes below one."""
    below = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return below + [each for child in below for each in children_of(child)]


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("how", ["leave", "SIGTERM", "kill"])
async def test_u12_however_it_ends_no_child_is_left_and_only_messages_were_printed(how: str, file: Path) -> None:
    async with started(file) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        children = children_of(process.pid)
        assert len(children) >= 2
        if how == "leave":
            process.stdin.close()
        elif how == "kill":
            process.kill()
        else:
            process.send_signal(signal.Signals[how])
        for line in (await process.stdout.read()).splitlines():
            assert json.loads(line)["jsonrpc"] == "2.0"
        assert await process.wait() == (-signal.SIGKILL if how == "kill" else 0)
        await until(lambda: not any(map(alive, children)))
        if how != "kill":
            assert b"is ready" in await process.stderr.read()
