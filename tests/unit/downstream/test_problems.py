"""The table from errors to what clients see."""

from __future__ import annotations

import inspect
import json

import pytest

from mcpgateway import errors
from mcpgateway.downstream.problems import modern_problem, problem_of, unexpected
from mcpgateway.errors import GatewayError, RpcError

EXPECTED = {
    errors.ParseError: (400, -32700),
    errors.InvalidRequest: (400, -32600),
    errors.MethodNotFound: (200, -32601),
    errors.InvalidParams: (200, -32602),
    errors.ResourceNotFound: (200, -32002),
    errors.UnsupportedVersion: (400, -32022),
    errors.UnknownSession: (404, -32600),
    errors.NotAcceptable: (406, -32600),
    errors.UnsupportedMedia: (415, -32600),
    errors.TooLarge: (413, -32600),
    errors.TooSlow: (408, -32600),
    errors.Unauthenticated: (401, -32600),
    errors.Forbidden: (403, -32600),
    errors.Busy: (429, -32600),
    errors.Draining: (503, -32600),
    errors.NotFound: (404, -32600),
    errors.PoolExhausted: (429, -32603),
    errors.PoolClosed: (503, -32603),
    errors.PoolError: (200, -32603),
}


@pytest.mark.parametrize(("kind", "expected"), EXPECTED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_each_error_has_its_status_and_code(kind: type[GatewayError], expected: tuple[int, int]) -> None:
    problem = problem_of(kind(), 7)
    body = json.loads(problem.body)
    assert (problem.status, body["error"]["code"], body["id"]) == (*expected, 7)
    assert body["error"]["message"]
    assert ((b"retry-after" in dict(problem.headers)) is (problem.status in (429, 503))) or problem.headers == ()


def test_what_went_wrong_upstream_names_the_upstream_at_status_200() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.UpstreamError)]
    for kind in kinds:
        parameters = inspect.signature(kind).parameters
        further = {"status": 502} if "status" in parameters else {}
        problem = problem_of(kind("crm", "it broke", **further), "a")
        error = json.loads(problem.body)["error"]
        assert (problem.status, error["code"], error["data"]["kind"]) == (200, -32603, kind.__name__)
        assert "crm" in error["message"] and error["data"]["upstream"] == "crm"


def test_an_upstreams_own_error_passes_byte_for_byte() -> None:
    raw = b'{"code":-1,"code":123456789012345678901234567890,"message":"\\u2028","x":1.0}'
    assert problem_of(RpcError(raw), 1).body == b'{"jsonrpc":"2.0","id":1,"error":' + raw + b"}"


def test_a_fault_of_ours_says_where_to_look_and_nothing_else() -> None:
    answered, bare = unexpected("r-1", 5), unexpected("r-1", None)
    assert (answered.status, bare.status) == (200, 500)
    for problem, id in ((answered, 5), (bare, "server-error")):
        body = json.loads(problem.body)
        assert (body.get("id"), body["error"]["code"], body["error"]["data"]["requestId"]) == (id, -32603, "r-1")


MODERN = {
    errors.ParseError: (400, -32700),
    errors.InvalidRequest: (400, -32600),
    errors.MethodNotFound: (404, -32601),
    errors.InvalidParams: (400, -32602),
    errors.ResourceNotFound: (400, -32602),
    errors.UnsupportedVersion: (400, -32022),
    errors.NotAcceptable: (406, -32600),
    errors.UnsupportedMedia: (415, -32600),
    errors.Busy: (429, -32600),
    errors.Draining: (503, -32600),
    errors.PoolExhausted: (429, -32603),
    errors.PoolError: (200, -32603),
}


@pytest.mark.parametrize(("kind", "expected"), MODERN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_each_error_has_its_modern_status_and_code(kind: type[GatewayError], expected: tuple[int, int]) -> None:
    problem = modern_problem(kind(), 7)
    body = json.loads(problem.body)
    assert (problem.status, body["error"]["code"], body["id"]) == (*expected, 7)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (-32601, (404, -32601)),
        (-32602, (400, -32602)),
        (-32002, (400, -32602)),
        (-32020, (400, -32020)),
        (-32021, (400, -32021)),
        (-32022, (200, -32603)),
        (-32042, (200, -32603)),
        (-32603, (200, -32603)),
        (17, (200, 17)),
    ],
)
def test_a_servers_error_has_the_status_of_its_code(code: int, expected: tuple[int, int]) -> None:
    problem = modern_problem(RpcError.of(code, "no"), 1)
    assert (problem.status, json.loads(problem.body)["error"]["code"]) == expected


def test_lost_state_is_told_without_a_word_of_sessions_to_begin() -> None:
    lost = errors.StateLost("upstream 'a: b' lost this session's state: send initialize to begin a new session")
    problem = modern_problem(lost, 1)
    error = json.loads(problem.body)["error"]
    assert problem.status == 200 and error["data"] == {"kind": "StateLost"}
    assert "'a: b' lost" in error["message"] and "initialize" not in error["message"]
