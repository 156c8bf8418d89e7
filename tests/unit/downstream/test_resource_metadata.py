"""Protected resource metadata, and the challenge that leads to it."""

from __future__ import annotations

import json

import pytest

from mcpgateway.downstream.resource_metadata import challenge, document, documents, metadata_url
from mcpgateway.errors import InvalidToken, TokenExpired, Unauthenticated

HERE = "https://mcp.example.com"
ISSUERS = ("https://id.example.com/", "https://other.example.com")
WELL_KNOWN = "/.well-known/oauth-protected-resource"


def test_a_document_names_the_resource_and_who_gives_out_tokens_for_it() -> None:
    assert json.loads(document(HERE, "/mcp", ISSUERS)) == {
        "resource": "https://mcp.example.com/mcp",
        "authorization_servers": list(ISSUERS),
        "bearer_methods_supported": ["header"],
        "resource_name": "MCP gateway",
    }


def test_every_endpoint_and_the_whole_gateway_are_described_in_their_places() -> None:
    found = documents(HERE, ["/mcp", "/servers/crm/mcp", "/servers/my crm/mcp"], ISSUERS)
    assert {path: json.loads(body)["resource"] for path, body in found.items()} == {
        WELL_KNOWN: HERE,
        f"{WELL_KNOWN}/mcp": f"{HERE}/mcp",
        f"{WELL_KNOWN}/servers/crm/mcp": f"{HERE}/servers/crm/mcp",
        f"{WELL_KNOWN}/servers/my crm/mcp": f"{HERE}/servers/my%20crm/mcp",
    }


def test_below_a_path_metadata_is_found_whether_or_not_the_proxy_hands_the_path_on() -> None:
    found = documents(f"{HERE}/gw", ["/mcp"], ISSUERS)
    assert set(found) == {WELL_KNOWN, f"{WELL_KNOWN}/gw", f"{WELL_KNOWN}/mcp", f"{WELL_KNOWN}/gw/mcp"}
    assert found[f"{WELL_KNOWN}/mcp"] == found[f"{WELL_KNOWN}/gw/mcp"]
    assert json.loads(found[f"{WELL_KNOWN}/mcp"])["resource"] == f"{HERE}/gw/mcp"


@pytest.mark.parametrize(
    ("public_url", "path", "where"),
    [
        (HERE, "/mcp", f"{HERE}{WELL_KNOWN}/mcp"),
        (HERE, "", f"{HERE}{WELL_KNOWN}"),
        (f"{HERE}:8443/gw", "/servers/a b/mcp", f"{HERE}:8443{WELL_KNOWN}/gw/servers/a%20b/mcp"),
    ],
)
def test_the_well_known_part_stands_between_host_and_path(public_url: str, path: str, where: str) -> None:
    assert metadata_url(public_url, path) == where


def test_a_token_that_is_not_accepted_is_challenged_with_the_reason() -> None:
    assert challenge(TokenExpired("the token has expired"), f"{HERE}{WELL_KNOWN}/mcp") == (
        b'Bearer realm="mcpgateway", error="invalid_token", error_description="the token has expired", '
        b'resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/mcp"'
    )


def test_a_request_without_a_token_is_told_of_no_error() -> None:
    assert challenge(Unauthenticated()) == b'Bearer realm="mcpgateway"'
    assert challenge(Unauthenticated(), "https://x/y") == b'Bearer realm="mcpgateway", resource_metadata="https://x/y"'


def test_nothing_in_a_challenge_breaks_out_of_its_quotes() -> None:
    said = challenge(InvalidToken('a"b\\c\r\nX: \u00e4'))
    assert said == b'Bearer realm="mcpgateway", error="invalid_token", error_description="a_b_c__X: _"'
