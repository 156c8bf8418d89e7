"""The access table: what it allows, and that it allows nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpgateway.auth.access import EVERYTHING, Access, Rights
from mcpgateway.auth.principals import ANONYMOUS, Principal
from mcpgateway.config import AccessRule

ALICE = Principal("static", "alice", "acme", ("dev", "ops"))
BOB = Principal("https://id.example.com", "bob", "zeta")


def rights(principal: Principal, *rules: dict[str, Any]) -> Rights:
    return Access([AccessRule(**rule) for rule in rules]).of(principal)


def test_without_rules_every_caller_may_use_everything() -> None:
    found = Access(None).of(BOB)
    assert found is EVERYTHING and found.all
    assert found.server("x") and found.tool("x", "y") and found.resource("x", "../y") and found.prompt("x", "y")


def test_with_rules_what_none_allows_is_forbidden() -> None:
    found = rights(BOB, {"servers": ("crm",), "principals": ("alice",)})
    assert not found.all
    assert not found.server("crm") and not found.tool("crm", "x") and not found.prompt("crm", "x")
    assert not found.resource("crm", "x")


def test_a_rule_allows_what_it_names_on_its_servers_only() -> None:
    found = rights(ALICE, {"servers": ("crm",), "tools": ("read_*",), "resources": ("file:///pub/*",), "prompts": ()})
    assert found.server("crm") and not found.server("time")
    assert found.tool("crm", "read_all") and not found.tool("crm", "write") and not found.tool("time", "read_all")
    assert found.resource("crm", "file:///pub/a/b") and not found.resource("crm", "file:///private")
    assert not found.prompt("crm", "greet")


def test_rules_add_up_but_never_mix() -> None:
    found = rights(ALICE, {"servers": ("crm",), "tools": ("a*",)}, {"servers": ("time",), "tools": ("b*",)})
    assert found.tool("crm", "a") and found.tool("time", "b")
    assert not found.tool("crm", "b") and not found.tool("time", "a")


@pytest.mark.parametrize(
    ("who", "alice", "bob"),
    [
        ({}, True, True),
        ({"principals": ("alice",)}, True, False),
        ({"principals": ("Alice",)}, False, False),
        ({"principals": ("alice", "bob")}, True, True),
        ({"tenants": ("acme",)}, True, False),
        ({"groups": ("ops", "admin")}, True, False),
        ({"issuers": ("https://id.example.com",)}, False, True),
        ({"issuers": ("static",), "principals": ("bob",)}, False, False),
        ({"tenants": ("zeta",), "groups": ("dev",)}, False, False),
        ({"tenants": ("acme",), "groups": ("dev",), "principals": ("alice",)}, True, False),
    ],
)
def test_a_rule_concerns_whoever_fits_all_of_its_conditions(who: dict[str, Any], alice: bool, bob: bool) -> None:
    rule = {"servers": ("crm",)} | who
    assert (rights(ALICE, rule).server("crm"), rights(BOB, rule).server("crm")) == (alice, bob)


def test_the_empty_tenant_is_nobodys_by_rule() -> None:
    assert not rights(ANONYMOUS, {"servers": ("crm",), "tenants": ("acme",)}).server("crm")


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "any\nthing", True),
        ("read", "read", True),
        ("read", "Read", False),
        ("read", "read_all", False),
        ("read", "read\n", False),
        ("r?ad", "road", True),
        ("[a-c]*", "beta", True),
        ("[a-c]*", "delta", False),
        ("a.c", "abc", False),
        ("a*", "\u00e4", False),
    ],
)
def test_patterns_are_those_of_a_shell_and_mind_the_case(pattern: str, name: str, fits: bool) -> None:
    found = rights(ALICE, {"servers": ("s",), "tools": (pattern,), "prompts": (pattern,), "resources": (pattern,)})
    assert found.tool("s", name) is found.prompt("s", name) is found.resource("s", name) is fits


@pytest.mark.parametrize(
    "uri",
    [
        "file:///pub/../etc/passwd",
        "file:///pub/..",
        "file:///pub/%2e%2e/etc",
        "file:///pub/.%2E/etc",
        "file:///pub/%252e%252e/etc",
        "file:///pub/..\\etc",
        "file:///pub/..%2fetc",
        "file:///pub/x?path=../etc",
        "file:///pub/%" + "25" * 20 + "2e",
        "file:///pub/" + "a" * 10_000,
    ],
)
def test_a_uri_that_climbs_or_may_climb_out_of_what_is_allowed_is_forbidden(uri: str) -> None:
    allowed = {"servers": ("s",), "resources": ("file:///pub/*",)}
    assert not rights(ALICE, allowed).resource("s", uri)
    assert rights(ALICE, allowed, {"servers": ("s",), "resources": ("*",)}).resource("s", uri)


@pytest.mark.parametrize(
    "uri", ["file:///pub/a..b", "file:///pub/...", "file:///pub/{+path}", "file:///pub/a%20b", "file:///pub/100%"]
)
def test_dots_that_do_not_climb_are_harmless(uri: str) -> None:
    assert rights(ALICE, {"servers": ("s",), "resources": ("file:///pub/*",)}).resource("s", uri)


def test_rights_follow_the_groups_of_the_present_token() -> None:
    access = Access([AccessRule(servers=("crm",), groups=("dev",))])
    before, after = Principal("i", "carol", groups=("dev",)), Principal("i", "carol")
    assert before.id == after.id
    assert access.of(before).server("crm") and not access.of(after).server("crm")
    assert access.of(before).server("crm")


def test_rights_are_worked_out_once_for_each_principal() -> None:
    access = Access([AccessRule(servers=("crm",))])
    assert access.of(ALICE) is access.of(Principal(ALICE.issuer, ALICE.subject, ALICE.tenant, ALICE.groups))


def test_a_changed_table_counts_at_once_and_the_gateway_itself_needs_none() -> None:
    access = Access([AccessRule(servers=("crm",))])
    assert access.of(ALICE).server("crm") and access.of(None).all
    access.replace([AccessRule(servers=("time",))])
    assert not access.of(ALICE).server("crm") and access.of(ALICE).server("time")
    access.replace(None)
    assert access.of(ALICE).all


def test_p16_only_so_many_principals_are_remembered() -> None:
    access = Access([AccessRule(servers=("crm",), principals=("p0",))], remembered=2)
    first = access.of(Principal("i", "p0"))
    second = access.of(Principal("i", "p1"))
    assert access.of(Principal("i", "p0")) is first
    access.of(Principal("i", "p2"))
    assert access.of(Principal("i", "p0")) is first
    assert access.of(Principal("i", "p1")) is not second and not access.of(Principal("i", "p1")).server("crm")


NAMES = st.text("ab*?[]\n.", max_size=6)


@settings(deadline=None)
@given(st.lists(NAMES, max_size=3), NAMES)
def test_a_pattern_without_wildcards_allows_only_itself(patterns: list[str], name: str) -> None:
    plain = tuple(each for each in patterns if not set(each) & set("*?["))
    assert rights(ALICE, {"servers": ("s",), "tools": plain}).tool("s", name) is (name in plain)
