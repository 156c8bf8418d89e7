"""What a modern request says of its client, and the rounds in which a modern server asks before it answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from msgspec import Raw

from mcpgateway import runtime
from mcpgateway.errors import BadAnswer, RpcError
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import Call
from mcpgateway.protocol.modern import TASKS
from mcpgateway.runtime import Sweep
from mcpgateway.upstream import rounds
from mcpgateway.upstream.base import GATEWAY_INFO
from mcpgateway.upstream.rounds import MAX_ROUNDS, envelope, has_tasks, in_rounds
from tests.fakes.clock import FakeClock
from tests.fakes.peers import Ear, Person
from tests.fakes.until import until

Json = dict[str, Any]
PREFIX = "io.modelcontextprotocol/"
FORM = {"method": "elicitation/create", "params": {"message": "who?", "requestedSchema": {"type": "object"}}}
VISIT = {"method": "elicitation/create", "params": {"mode": "url", "message": "go", "url": "https://a.test"}}
SAMPLING = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
ROOTS = {"method": "roots/list"}
ALL = b'{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{"listChanged":true}}'


class Client(Person):
    def __init__(self, capabilities: bytes = ALL, version: str = "2025-11-25", info: bytes = Person.client_info) -> None:
        self.capabilities = capabilities
        self.version = version
        self.client_info = info


def call_of(client: Client, method: str = "tools/call", **params: Any) -> Call:
    return Call(method, {name: jsonrpc.raw(value) for name, value in params.items()}, client=client)


def asking(state: object = None, **questions: Json) -> bytes:
    fields: Json = {"resultType": "input_required"}
    if questions:
        fields["inputRequests"] = questions
    if state is not None:
        fields["requestState"] = state
    return json.dumps(fields).encode()


DONE = b'{"content":[],"resultType":"complete"}'


class Server:
    """Answers each round with the next of its results, and keeps the params it was sent."""

    def __init__(self, *results: bytes) -> None:
        self._results = list(results)
        self.rounds: list[dict[str, bytes]] = []

    async def send(self, params: jsonrpc.Params) -> bytes:
        self.rounds.append({name: bytes(value) for name, value in params.items()})
        return self._results.pop(0) if len(self._results) > 1 else self._results[0]


async def run(server: Server, call: Call, channel: Any = None) -> bytes:
    async with asyncio.timeout(10):
        return await in_rounds("up", call, channel or Ear(), server.send, Sweep())


def meta_in(params: jsonrpc.Params) -> Json:
    decoded: Json = json.loads(bytes(params["_meta"]))
    return decoded


def test_every_request_says_who_the_client_is() -> None:
    client = Client(b'{"roots":{}}')
    params, token = envelope(call_of(client), {"name": Raw(b'"echo"')}, "2026-07-28", 7)
    assert token is None
    assert bytes(params["name"]) == b'"echo"'
    assert meta_in(params) == {
        f"{PREFIX}protocolVersion": "2026-07-28",
        f"{PREFIX}clientCapabilities": {"roots": {}},
        f"{PREFIX}clientInfo": {"name": "test", "version": "1"},
    }


def test_what_the_client_put_into_meta_stays_but_for_the_envelope_itself() -> None:
    given = {"traceparent": "00-1", "com.example/x": None, f"{PREFIX}logLevel": "debug", f"{PREFIX}protocolVersion": "1"}
    call = call_of(Client(), _meta=given)
    params, _ = envelope(call, call.params, "2026-07-28", 7)
    meta = meta_in(params)
    assert (meta["traceparent"], meta["com.example/x"]) == ("00-1", None)
    assert f"{PREFIX}logLevel" not in meta
    assert meta[f"{PREFIX}protocolVersion"] == "2026-07-28"


def test_the_log_level_and_a_progress_token_of_our_own_are_named() -> None:
    call = call_of(Client(), _meta={"progressToken": "t"})
    call.log_level = "warning"
    params, token = envelope(call, call.params, "2026-07-28", 7)
    assert bytes(token or b"") == b'"t"'
    assert (meta_in(params)["progressToken"], meta_in(params)[f"{PREFIX}logLevel"]) == (7, "warning")


@pytest.mark.parametrize(
    ("version", "declared", "said"),
    [
        ("2025-11-25", {"tasks": {}, "roots": {}}, {"roots": {}}),
        ("2025-11-25", {"extensions": {TASKS: {}, "a/b": {}}}, {"extensions": {"a/b": {}}}),
        ("2025-11-25", {"elicitation": {"url": {}}}, {"elicitation": {"url": {}}}),
        ("2025-06-18", {"elicitation": {"url": {}}}, {"elicitation": {}}),
        ("2026-07-28", {"extensions": {TASKS: {}}, "tasks": {}}, {"extensions": {TASKS: {}}, "tasks": {}}),
    ],
)
def test_capabilities_are_declared_as_far_as_they_can_be_carried(version: str, declared: Json, said: Json) -> None:
    client = Client(json.dumps(declared).encode(), version)
    params, _ = envelope(call_of(client), {}, "2026-07-28", 1)
    assert meta_in(params)[f"{PREFIX}clientCapabilities"] == said


def test_a_client_that_did_not_say_who_it_is_goes_by_the_gateways_name() -> None:
    params, _ = envelope(call_of(Client(info=b"{}")), {}, "2026-07-28", 1)
    assert meta_in(params)[f"{PREFIX}clientInfo"] == json.loads(GATEWAY_INFO)


def test_what_one_client_declared_is_never_said_of_another() -> None:
    for capabilities in (b"{}", b'{"roots":{}}', b"{}"):
        params, _ = envelope(call_of(Client(capabilities)), {}, "2026-07-28", 1)
        assert meta_in(params)[f"{PREFIX}clientCapabilities"] == json.loads(capabilities)


def test_p16_what_a_client_declares_at_great_length_is_not_remembered() -> None:
    large = b'{"experimental":{"x":{"a":"%b"}}}' % (b"y" * 10_000)
    before = rounds._meta.cache_info().currsize
    params, _ = envelope(call_of(Client(large)), {}, "2026-07-28", 1)
    assert meta_in(params)[f"{PREFIX}clientCapabilities"] == json.loads(large)
    assert rounds._meta.cache_info().currsize == before


@pytest.mark.parametrize(
    ("version", "capabilities", "has"),
    [
        ("2026-07-28", {"extensions": {TASKS: {}}}, True),
        ("2026-07-28", {"extensions": {}, "experimental": {TASKS: {}}}, False),
        ("2026-07-28", {}, False),
        ("2025-11-25", {"extensions": {TASKS: {}}}, False),
    ],
)
def test_only_a_modern_client_has_the_tasks_extension(version: str, capabilities: Json, has: bool) -> None:
    assert has_tasks(Client(json.dumps(capabilities).encode(), version)) is has


@pytest.mark.parametrize("result", [DONE, b'{"content":[]}'])
async def test_c4_an_answer_without_questions_is_passed_as_it_came(result: bytes) -> None:
    server = Server(result)
    assert await run(server, call_of(Client(), name="echo")) is result
    assert server.rounds == [{"name": b'"echo"'}]


async def test_questions_are_put_to_the_client_and_the_call_is_sent_again_with_the_answers() -> None:
    state = ' {"exact":"\u00e9\\u00e9"} '
    question = b'{"resultType":"input_required","requestState":%b,"inputRequests":{"k":%b}}'
    raw_state = json.dumps(state, ensure_ascii=False).encode()
    server = Server(question % (raw_state, json.dumps(FORM).encode()), DONE)
    ear = Ear()
    answer = b'{"action" : "accept","content":{"name":"Ada"}}'
    ear.answer.set_result(answer)
    assert await run(server, call_of(Client(), name="ask", inputResponses={"old": 1}, requestState="old"), ear) == DONE
    assert await ear.next_question() == ("elicitation/create", FORM["params"])
    assert server.rounds[1] == {"name": b'"ask"', "inputResponses": b'{"k":%b}' % answer, "requestState": raw_state}


async def test_all_questions_of_a_round_are_asked_at_once() -> None:
    server = Server(asking(a=FORM, b=SAMPLING, c=ROOTS), DONE)
    ear = Ear()
    task = asyncio.create_task(run(server, call_of(Client(), requestState="of the client's own"), ear))
    asked = {(await ear.next_question())[0] for _ in range(3)}
    assert asked == {"elicitation/create", "sampling/createMessage", "roots/list"}
    ear.answer.set_result(b'{"n":1}')
    assert await task == DONE
    assert json.loads(server.rounds[1]["inputResponses"]) == {"a": {"n": 1}, "b": {"n": 1}, "c": {"n": 1}}
    assert "requestState" not in server.rounds[1]


async def test_a_later_round_holds_nothing_of_an_earlier_one() -> None:
    server = Server(asking("one", a=ROOTS), asking(b=ROOTS), asking("three", c=ROOTS), DONE)
    ear = Ear()
    ear.answer.set_result(b'{"roots":[]}')
    await run(server, call_of(Client()), ear)
    answers = [list(json.loads(params["inputResponses"])) for params in server.rounds[1:]]
    assert answers == [["a"], ["b"], ["c"]]
    assert [params.get("requestState") for params in server.rounds[1:]] == [b'"one"', None, b'"three"']


async def test_a_visit_to_a_url_gets_the_name_that_2025_11_25_asks_for() -> None:
    server = Server(asking(a=VISIT), DONE)
    ear = Ear()
    ear.answer.set_result(b'{"action":"accept"}')
    await run(server, call_of(Client()), ear)
    _, params = await ear.next_question()
    assert params.pop("elicitationId")
    assert params == VISIT["params"]


async def test_a_refusal_of_the_clients_is_the_answer_to_its_call_and_ends_the_other_questions() -> None:
    class Refusing(Ear):
        async def ask(self, method: str, params: bytes) -> bytes:
            if method == "roots/list":
                await until(lambda: self.questions.qsize() > 0)
                raise RpcError.of(-1, "the user said no")
            return await super().ask(method, params)

    ear = Refusing()
    with pytest.raises(RpcError) as caught:
        await run(Server(asking(a=FORM, b=ROOTS)), call_of(Client()), ear)
    assert caught.value.code == -1
    await until(lambda: not runtime.running_tasks())
    assert ear.cut_short == 1


async def test_c5_a_caller_that_gives_up_is_not_asked_any_more() -> None:
    ear = Ear()
    task = asyncio.create_task(run(Server(asking(a=FORM, b=FORM)), call_of(Client()), ear))
    await ear.next_question()
    await ear.next_question()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not runtime.running_tasks())
    assert ear.cut_short == 2


UNASKABLE: dict[str, tuple[bytes, str, Json]] = {
    "not declared": (b"{}", "2025-11-25", FORM),
    "sampling not declared": (b'{"elicitation":{}}', "2025-11-25", SAMPLING),
    "roots not declared": (b'{"elicitation":{}}', "2025-11-25", ROOTS),
    "no urls": (b'{"elicitation":{}}', "2025-11-25", VISIT),
    "forms only": (b'{"elicitation":{"form":{}}}', "2025-11-25", VISIT),
    "urls before their time": (b'{"elicitation":{"url":{}}}', "2025-06-18", VISIT),
    "no such question": (ALL, "2025-11-25", {"method": "tools/call", "params": {}}),
}


@pytest.mark.parametrize("kind", UNASKABLE)
async def test_a_client_is_asked_nothing_that_it_did_not_declare(kind: str) -> None:
    capabilities, version, question = UNASKABLE[kind]
    ear = Ear()
    with pytest.raises(BadAnswer, match=r"'up'.*ask"):
        await run(Server(asking(a=question)), call_of(Client(capabilities, version)), ear)
    assert ear.questions.empty()


NONSENSE: dict[str, tuple[str, bytes]] = {
    "an unknown kind": ("tools/call", b'{"resultType":"later"}'),
    "a task that nobody declared": ("tools/call", b'{"resultType":"task"}'),
    "a kind of no kind": ("tools/call", b'{"resultType":5}'),
    "nothing asked": ("tools/call", asking()),
    "questions of no kind": ("tools/call", b'{"resultType":"input_required","inputRequests":[]}'),
    "params of no kind": ("tools/call", asking(a={"method": "roots/list", "params": [1]})),
    "too many": ("tools/call", asking(**{f"k{number}": ROOTS for number in range(101)})),
    "a list that asks": ("tools/list", asking(a=ROOTS)),
}


@pytest.mark.parametrize("kind", NONSENSE)
async def test_what_is_neither_answer_nor_question_is_a_bad_answer(kind: str) -> None:
    method, result = NONSENSE[kind]
    with pytest.raises(BadAnswer, match="'up'"):
        await run(Server(result), call_of(Client(), method))


async def test_a_server_that_asks_without_end_is_stopped() -> None:
    server = Server(asking(a=ROOTS))
    ear = Ear()
    ear.answer.set_result(b'{"roots":[]}')
    with pytest.raises(BadAnswer, match=f"after {MAX_ROUNDS} rounds"):
        await run(server, call_of(Client()), ear)
    assert len(server.rounds) == MAX_ROUNDS + 1


async def test_rounds_without_questions_come_with_growing_pauses(clock: FakeClock) -> None:
    sweep = Sweep(clock, tick_seconds=3600)
    server = Server(*[asking(f"s{number}") for number in range(4)], DONE)
    task = asyncio.create_task(in_rounds("up", call_of(Client()), Ear(), server.send, sweep))
    for number, seconds in enumerate((0.05, 0.1, 0.2, 0.4)):
        await until(lambda: len(sweep) == 1)
        clock.advance(seconds - 0.01)
        sweep.expire_due()
        assert len(sweep) == 1
        assert len(server.rounds) == number + 1
        clock.advance(0.011)
        sweep.expire_due()
        await until(lambda seen=number: len(server.rounds) > seen + 1)
    async with asyncio.timeout(5):
        assert await task == DONE
    assert len(sweep) == 0
    sweep.close()


@pytest.mark.parametrize("result", [asking("s", a=SAMPLING), b'{"resultType":"task","taskId":"t"}', b'{"resultType":"later"}'])
async def test_a_modern_client_gets_the_questions_themselves(result: bytes) -> None:
    server = Server(result)
    call = call_of(Client(b"{}", "2026-07-28"), inputResponses={"k": {}}, requestState="sealed no more")
    assert await run(server, call) is result
    assert server.rounds == [{"inputResponses": b'{"k":{}}', "requestState": b'"sealed no more"'}]
