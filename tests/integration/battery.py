"""What an MCP client and server can say to one another, as cases that run through any client at any URL.

A `Case` is steps in the language of `tests/clients/steps.py` and a check of their outcomes. `FASTMCP` is for
`tests/servers/fastmcp_1x.py`, `EVERYTHING` for npm's server-everything. A `Target` says where to run them: directly at
the server, or at a gateway in front of it, which may have put a prefix before the names of tools and prompts.
"""

from __future__ import annotations

import base64
import copy
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.clients.driver import Driver
from tests.clients.steps import Json

Outcomes = list[Json]
TOUCHABLE = "demo://touchable"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(64))


@dataclass(frozen=True)
class Target:
    """Where a battery runs. `prefix` is what stands before the server's own names there, such as 'files__'."""

    transport: str = "http"
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    prefix: str = ""


@dataclass(frozen=True)
class Case:
    """One thing to prove. `steps` makes the steps anew for each run, so that names in them can be unique."""

    name: str
    steps: Callable[[], list[Json]]
    check: Callable[[Outcomes], None]
    needs_session: bool = False
    """Whether it needs a server that can speak during a call, outside one, or keep state: not a stateless one."""

    def __str__(self) -> str:
        return self.name

    def check_named(self, outcomes: Outcomes) -> None:
        """Check, with the case's name and what came of it added to a failure."""
        try:
            self.check(outcomes)
        except Exception as error:
            error.add_note(f"case {self.name!r}: {str(outcomes)[:3000]}")
            raise


async def run_case(case: Case, driver: Driver, target: Target) -> None:
    """Run a case in a session of its own and check it. Raises AssertionError, or whatever the client broke on."""
    await run_in_one_session([case], driver, target)


async def run_in_one_session(battery: Iterable[Case], driver: Driver, target: Target) -> None:
    """Run cases one after the other in a single session: quicker where a session is dear, and proof that they do not disturb
    one another. The error says which case failed."""
    chosen = [(case, case.steps()) for case in battery]
    script: Json = {
        "transport": target.transport,
        "url": target.url,
        "headers": target.headers,
        "command": target.command,
        "steps": [_prefixed(step, target.prefix) for _, made in chosen for step in made],
    }
    outcomes = [_without_prefix(outcome, target.prefix) for outcome in await driver.run(script)]
    assert [outcome["do"] for outcome in outcomes] == [step["do"] for step in script["steps"]]
    for case, made in chosen:
        case.check_named(outcomes[: len(made)])
        del outcomes[: len(made)]


def cases(battery: Iterable[Case], *, stateless: bool = False) -> list[Case]:
    """The cases that such a server can pass."""
    return [case for case in battery if not (stateless and case.needs_session)]


def _prefixed(step: Json, prefix: str) -> Json:
    step = copy.deepcopy(step)
    for holder, key in ((step, "tool"), (step, "name"), (step.get("ref", {}), "name")):
        if key in holder:
            holder[key] = prefix + holder[key]
    return step


def _without_prefix(outcome: Json, prefix: str) -> Json:
    result = outcome.get("result", {})
    for entry in [*result.get("tools", []), *result.get("prompts", [])]:
        assert entry["name"].startswith(prefix), f"{entry['name']!r} does not begin with {prefix!r}"
        entry["name"] = entry["name"].removeprefix(prefix)
    return outcome


def result(outcome: Json) -> Json:
    """The result of an outcome that must have one."""
    assert "error" not in outcome, outcome
    found: Json = outcome["result"]
    return found


def text(outcome: Json) -> str:
    """The first text of a tool's result that must be no error."""
    found = result(outcome)
    assert not found.get("isError"), found
    return str(found["content"][0]["text"])


def by_name(outcome: Json, what: str, key: str = "name") -> dict[str, Json]:
    return {entry[key]: entry for entry in result(outcome)[what]}


def call(tool: str, **arguments: object) -> Json:
    return {"do": "call", "tool": tool, "arguments": arguments}


def heard(outcome: Json, method: str) -> list[Json]:
    """The params of the notifications of that method which came in during the step."""
    return [entry["params"] for entry in outcome["notifications"] if entry["method"] == method]


def asked(outcome: Json) -> list[str]:
    """The methods that the server asked the client during the step."""
    return [entry["method"] for entry in outcome["asked"]]


def steps(*fixed: Json) -> Callable[[], list[Json]]:
    return lambda: list(fixed)


def _handshake(outcomes: Outcomes) -> None:
    welcome = result(outcomes[0])
    assert welcome["protocolVersion"] == "2025-11-25"
    assert {"tools", "resources", "prompts"} <= set(welcome["capabilities"])
    assert outcomes[1]["result"] == {}


def _tools(outcomes: Outcomes) -> None:
    tools = by_name(outcomes[0], "tools")
    assert {"echo", "add", "image", "slow", "counter", "elicit", "whoami", "big"} <= set(tools)
    assert tools["echo"]["annotations"] == {"readOnlyHint": True}
    assert tools["add"]["inputSchema"]["required"] == ["a", "b"]
    assert tools["add"]["outputSchema"]["properties"]["sum"]["type"] == "integer"


def _echo(outcomes: Outcomes) -> None:
    assert text(outcomes[0]) == "grüße 🦉"


def _structured(outcomes: Outcomes) -> None:
    assert result(outcomes[0])["structuredContent"] == {"sum": 5}


def _image(outcomes: Outcomes) -> None:
    [picture] = result(outcomes[0])["content"]
    assert (picture["type"], picture["mimeType"]) == ("image", "image/png")
    assert base64.b64decode(picture["data"]) == PICTURE


def _big(outcomes: Outcomes) -> None:
    assert text(outcomes[0]) == "0123456789abcdef" * 64 * 960


def _tool_error(outcomes: Outcomes) -> None:
    failed = result(outcomes[0])
    assert failed["isError"] is True
    assert "on purpose" in failed["content"][0]["text"]


def _progress(outcomes: Outcomes) -> None:
    assert text(outcomes[0]) == "3 steps"
    assert outcomes[0]["progress"] == [[1, 3, "step 1"], [2, 3, "step 2"], [3, 3, "step 3"]]


def _logging(outcomes: Outcomes) -> None:
    assert text(outcomes[1]) == "logged"
    [message] = heard(outcomes[1], "notifications/message")
    assert (message["level"], message["data"]) == ("info", "a word")
    assert text(outcomes[2]) == "info"


def _elicitation(outcomes: Outcomes) -> None:
    assert text(outcomes[0]) == "accept Ada"
    [question] = outcomes[0]["asked"]
    assert (question["method"], question["params"]["message"]) == ("elicitation/create", "Who?")
    assert question["params"]["requestedSchema"]["required"] == ["name"]


def _sampling(outcomes: Outcomes) -> None:
    assert text(outcomes[0]) == "test-model: sampled"
    [question] = outcomes[0]["asked"]
    assert question["method"] == "sampling/createMessage"
    assert question["params"]["messages"][0]["content"]["text"] == "Say something"


def _roots(outcomes: Outcomes) -> None:
    assert text(outcomes[0]) == "file:///srv/ada"
    assert asked(outcomes[0]) == ["roots/list"]


def _roots_apart(outcomes: Outcomes) -> None:
    assert text(outcomes[2]) == "file:///srv/ada"
    assert asked(outcomes[2]) == ["roots/list"]


def _counter(outcomes: Outcomes) -> None:
    counts = [result(outcome)["structuredContent"] for outcome in outcomes]
    assert [count["count"] for count in counts] == [1, 2, 3]
    assert len({count["session"] for count in counts}) == 1


def _resources(outcomes: Outcomes) -> None:
    assert {"demo://text", "demo://blob", TOUCHABLE} <= set(by_name(outcomes[0], "resources", "uri"))
    assert "demo://items/{colour}" in by_name(outcomes[1], "resourceTemplates", "uriTemplate")


def _read(outcomes: Outcomes) -> None:
    [plain], [blob], [item] = (result(outcome)["contents"] for outcome in outcomes[:3])
    assert (plain["uri"], plain["mimeType"], plain["text"]) == ("demo://text", "text/plain", "some text")
    assert base64.b64decode(blob["blob"]) == PICTURE
    assert (item["uri"], item["text"]) == ("demo://items/green", "a green item")
    assert "error" in outcomes[3]


def _subscribe(outcomes: Outcomes) -> None:
    assert [result(outcomes[0]), result(outcomes[2])] == [{}, {}]
    assert {"uri": TOUCHABLE} in heard(outcomes[1], "notifications/resources/updated")


def _prompts(outcomes: Outcomes) -> None:
    prompts = by_name(outcomes[0], "prompts")
    assert [argument["name"] for argument in prompts["painted"]["arguments"]] == ["colour"]
    assert result(outcomes[1])["messages"][0]["content"]["text"] == "Say hello."
    assert result(outcomes[2])["messages"][0]["content"]["text"] == "Paint it blue."
    assert "error" in outcomes[3]


def _completion(outcomes: Outcomes) -> None:
    assert result(outcomes[0])["completion"]["values"] == ["blue", "black"]
    assert result(outcomes[1])["completion"]["values"] == ["green"]


def _cancel(outcomes: Outcomes) -> None:
    assert result(outcomes[0]) == {"cancelled": True}
    assert outcomes[0]["progress"] == [[0, 1, "begun"]]
    assert text(outcomes[1]) == "yes"
    assert text(outcomes[2]) == "still here"


def _cancel_steps() -> list[Json]:
    token = uuid.uuid4().hex
    cancel = {"do": "cancel", "tool": "wait", "arguments": {"token": token}}
    return [cancel, call("was_cancelled", token=token), call("echo", text="still here")]


def _list_changed_steps() -> list[Json]:
    name = f"extra_{uuid.uuid4().hex[:8]}"
    changed = "notifications/tools/list_changed"
    add = {"do": "call_until", "tool": "add_tool_live", "arguments": {"name": name}, "heard": changed}
    return [add, {"do": "list", "what": "tools"}]


def _list_changed(outcomes: Outcomes) -> None:
    assert text(outcomes[0]) in by_name(outcomes[1], "tools")


COLOUR = {"name": "colour", "value": "bl"}
SUBSCRIBE: Json = {"do": "subscribe", "uri": TOUCHABLE}
TOUCH: Json = {"do": "call_until", "tool": "touch", "heard": "notifications/resources/updated"}

FASTMCP: list[Case] = [
    Case("handshake", steps({"do": "initialize"}, {"do": "ping"}), _handshake),
    Case("list tools", steps({"do": "list", "what": "tools"}), _tools),
    Case("text", steps(call("echo", text="grüße 🦉")), _echo),
    Case("structured output", steps(call("add", a=2, b=3)), _structured),
    Case("image", steps(call("image")), _image),
    # The 2.x client takes no event over 1 MiB, whatever is around the text included.
    Case("much text", steps(call("big", kib=960)), _big),
    Case("tool error", steps(call("fail", text="on purpose")), _tool_error),
    Case("progress", steps(call("progress", n=3)), _progress, needs_session=True),
    Case(
        "logging",
        steps({"do": "set_level", "level": "info"}, call("log", text="a word"), call("level")),
        _logging,
        needs_session=True,
    ),
    Case("elicitation", steps(call("elicit", question="Who?")), _elicitation, needs_session=True),
    Case("sampling", steps(call("sample", prompt="Say something")), _sampling, needs_session=True),
    Case("roots", steps(call("roots")), _roots, needs_session=True),
    # The question comes on the session's own stream, so that must be known to be open before it is asked.
    Case("roots outside a call", steps(SUBSCRIBE, TOUCH, call("roots_apart")), _roots_apart, needs_session=True),
    Case("state of a session", steps(call("counter"), call("counter"), call("counter")), _counter, needs_session=True),
    Case("list resources", steps({"do": "list", "what": "resources"}, {"do": "list", "what": "resourceTemplates"}), _resources),
    Case(
        "read resources",
        steps(*({"do": "read", "uri": f"demo://{name}"} for name in ("text", "blob", "items/green", "nothing"))),
        _read,
    ),
    Case(
        "subscribe",
        steps(SUBSCRIBE, TOUCH, {"do": "unsubscribe", "uri": TOUCHABLE}),
        _subscribe,
        needs_session=True,
    ),
    Case(
        "prompts",
        steps(
            {"do": "list", "what": "prompts"},
            {"do": "prompt", "name": "plain"},
            {"do": "prompt", "name": "painted", "arguments": {"colour": "blue"}},
            {"do": "prompt", "name": "nothing"},
        ),
        _prompts,
    ),
    Case(
        "completion",
        steps(
            {"do": "complete", "ref": {"type": "ref/prompt", "name": "painted"}, "argument": COLOUR},
            {
                "do": "complete",
                "ref": {"type": "ref/resource", "uri": "demo://items/{colour}"},
                "argument": {"name": "colour", "value": "g"},
            },
        ),
        _completion,
    ),
    Case("cancel", _cancel_steps, _cancel, needs_session=True),
    Case("tools/list_changed", _list_changed_steps, _list_changed, needs_session=True),
]


def _everything_tools(outcomes: Outcomes) -> None:
    tools = by_name(outcomes[0], "tools")
    # The last three are offered only to clients that have said that they can answer.
    asking = {"get-roots-list", "trigger-sampling-request", "trigger-elicitation-request"}
    assert {"echo", "get-sum", "get-tiny-image", "get-structured-content"} | asking <= set(tools)
    assert tools["get-structured-content"]["outputSchema"]["type"] == "object"
    assert tools["echo"]["annotations"]["idempotentHint"] is True


def _everything_text(outcomes: Outcomes) -> None:
    assert text(outcomes[0]) == "Echo: grüße 🦉"
    assert text(outcomes[1]) == "The sum of 2 and 3 is 5."
    assert result(outcomes[2])["isError"] is True


def _everything_image(outcomes: Outcomes) -> None:
    before, picture, after = result(outcomes[0])["content"]
    assert [before["type"], picture["type"], after["type"]] == ["text", "image", "text"]
    assert base64.b64decode(picture["data"]).startswith(b"\x89PNG")


def _everything_structured(outcomes: Outcomes) -> None:
    assert result(outcomes[0])["structuredContent"] == {"temperature": 36, "conditions": "Light rain / drizzle", "humidity": 82}


def _everything_annotated(outcomes: Outcomes) -> None:
    [entry] = result(outcomes[0])["content"]
    assert entry["annotations"] == {"priority": 1, "audience": ["user", "assistant"]}


def _everything_progress(outcomes: Outcomes) -> None:
    assert text(outcomes[0]).startswith("Long running operation completed")
    assert [entry[:2] for entry in outcomes[0]["progress"]] == [[1, 4], [2, 4], [3, 4], [4, 4]]


def _everything_logging(outcomes: Outcomes) -> None:
    levels = {message["level"] for message in heard(outcomes[1], "notifications/message")}
    assert levels <= {"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}
    assert levels


def _everything_elicitation(outcomes: Outcomes) -> None:
    assert "elicitation/create" in asked(outcomes[0])
    assert "- Name: Ada" in result(outcomes[0])["content"][1]["text"]


def _everything_sampling(outcomes: Outcomes) -> None:
    assert "sampling/createMessage" in asked(outcomes[0])
    assert '"text": "sampled"' in text(outcomes[0])


def _everything_roots(outcomes: Outcomes) -> None:
    assert "file:///srv/ada" in text(outcomes[2])


def _everything_resources(outcomes: Outcomes) -> None:
    uris = set(by_name(outcomes[0], "resources", "uri"))
    assert "demo://resource/static/document/features.md" in uris
    assert "demo://resource/dynamic/text/{resourceId}" in by_name(outcomes[1], "resourceTemplates", "uriTemplate")
    assert result(outcomes[2])["contents"][0]["text"].startswith("Resource 7:")
    assert base64.b64decode(result(outcomes[3])["contents"][0]["blob"]).startswith(b"Resource 8:")
    assert "error" in outcomes[4]


def _everything_subscribe(outcomes: Outcomes) -> None:
    assert {"uri": EVERYTHING_URI} in heard(outcomes[1], "notifications/resources/updated")


def _everything_prompts(outcomes: Outcomes) -> None:
    assert {"simple-prompt", "args-prompt", "completable-prompt"} <= set(by_name(outcomes[0], "prompts"))
    assert "simple prompt" in result(outcomes[1])["messages"][0]["content"]["text"]
    assert result(outcomes[2])["messages"][0]["content"]["text"] == "What's weather in Oslo?"


def _everything_completion(outcomes: Outcomes) -> None:
    assert result(outcomes[0])["completion"]["values"] == ["Engineering"]
    assert result(outcomes[1])["completion"]["values"] == ["Alice"]


def _everything_cancel(outcomes: Outcomes) -> None:
    # This server goes on with what was cancelled, so all there is to see is that the session lives on.
    assert result(outcomes[0]) == {"cancelled": True}
    assert text(outcomes[1]) == "Echo: still here"


EVERYTHING_URI = "demo://resource/dynamic/text/1"
DEPARTMENT = {"type": "ref/prompt", "name": "completable-prompt"}
LONG = "trigger-long-running-operation"
EVERYTHING_SUBSCRIBE: Json = {"do": "subscribe", "uri": EVERYTHING_URI}
EVERYTHING_UPDATES: Json = {
    "do": "call_until",
    "tool": "toggle-subscriber-updates",
    "heard": "notifications/resources/updated",
}

EVERYTHING: list[Case] = [
    Case("handshake", steps({"do": "initialize"}, {"do": "ping"}), _handshake),
    Case("list tools", steps({"do": "list", "what": "tools"}), _everything_tools),
    Case("text", steps(call("echo", message="grüße 🦉"), call("get-sum", a=2, b=3), call("get-sum", a="x")), _everything_text),
    Case("image", steps(call("get-tiny-image")), _everything_image),
    Case("structured output", steps(call("get-structured-content", location="Chicago")), _everything_structured),
    Case("annotations", steps(call("get-annotated-message", messageType="error")), _everything_annotated),
    Case("progress", steps(call(LONG, duration=0.04, steps=4)), _everything_progress),
    Case(
        "logging",
        steps(
            {"do": "set_level", "level": "debug"},
            {"do": "call_until", "tool": "toggle-simulated-logging", "heard": "notifications/message"},
        ),
        _everything_logging,
    ),
    Case("elicitation", steps(call("trigger-elicitation-request")), _everything_elicitation),
    Case("sampling", steps(call("trigger-sampling-request", prompt="Say something")), _everything_sampling),
    # It asks on the session's own stream, so that must be known to be open before it is made to ask.
    Case("roots", steps(EVERYTHING_SUBSCRIBE, EVERYTHING_UPDATES, call("get-roots-list")), _everything_roots),
    Case(
        "resources",
        steps(
            {"do": "list", "what": "resources"},
            {"do": "list", "what": "resourceTemplates"},
            {"do": "read", "uri": "demo://resource/dynamic/text/7"},
            {"do": "read", "uri": "demo://resource/dynamic/blob/8"},
            {"do": "read", "uri": "demo://resource/dynamic/text/none"},
        ),
        _everything_resources,
    ),
    Case("subscribe", steps(EVERYTHING_SUBSCRIBE, EVERYTHING_UPDATES), _everything_subscribe),
    Case(
        "prompts",
        steps(
            {"do": "list", "what": "prompts"},
            {"do": "prompt", "name": "simple-prompt"},
            {"do": "prompt", "name": "args-prompt", "arguments": {"city": "Oslo"}},
        ),
        _everything_prompts,
    ),
    Case(
        "completion",
        steps(
            {"do": "complete", "ref": DEPARTMENT, "argument": {"name": "department", "value": "E"}},
            {
                "do": "complete",
                "ref": DEPARTMENT,
                "argument": {"name": "name", "value": "A"},
                "context": {"department": "Engineering"},
            },
        ),
        _everything_completion,
    ),
    Case(
        "cancel",
        steps({"do": "cancel", "tool": LONG, "arguments": {"duration": 1, "steps": 20}}, call("echo", message="still here")),
        _everything_cancel,
    ),
]
