"""Names that clients see, and the way back from them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgateway.protocol.names import MAX_NAME, exposed, qualified_uri, slug_of, split, split_qualified

SLUGS = st.text().map(slug_of).filter(bool)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("crm", "crm"),
        ("My CRM", "My_CRM"),
        ("a__b", "a_b"),
        ("_a_", "a"),
        ("git.example-1", "git.example-1"),
        ("日本", ""),
        ("..", ""),
        ("x" * 32, "x" * 32),
    ],
)
def test_a_slug_is_the_name_in_plain_characters(name: str, slug: str) -> None:
    assert slug_of(name) == slug


def test_long_names_that_begin_alike_have_different_slugs() -> None:
    one, other = slug_of("x" * 40 + "1"), slug_of("x" * 40 + "2")
    assert one != other and len(one) == len(other) == 32


@given(st.text())
def test_a_slug_never_holds_what_parts_it_from_the_name(name: str) -> None:
    slug = slug_of(name)
    assert re.fullmatch(r"[A-Za-z0-9_.-]{0,32}", slug)
    assert "__" not in slug and not slug.startswith("_") and not slug.endswith("_")


@given(SLUGS, st.text(min_size=1))
def test_an_exposed_name_is_short_and_leads_back(slug: str, name: str) -> None:
    shown = exposed(slug, name)
    found = split(shown)
    assert len(shown) <= MAX_NAME
    assert found is not None and found[0] == slug
    assert len(f"{slug}__{name}") > MAX_NAME or found[1] == name


def test_long_tool_names_that_begin_alike_stay_apart() -> None:
    names = {exposed("crm", "x" * 70 + str(number)) for number in range(1000)}
    assert len(names) == 1000


def test_the_cut_form_is_the_same_for_ever() -> None:
    assert exposed("crm", "x" * 70) == "crm__" + "x" * 50 + "_fd78ca07"


@pytest.mark.parametrize("name", ["", "crm", "crm_x", "crm__", "__x"])
def test_what_was_never_exposed_is_not_split(name: str) -> None:
    assert split(name) is None


@given(st.lists(SLUGS, min_size=1, unique=True), st.text(min_size=1), st.data())
def test_a_qualified_uri_leads_back_to_its_server(slugs: list[str], uri: str, data: st.DataObject) -> None:
    slug = data.draw(st.sampled_from(slugs))
    assert split_qualified(qualified_uri(slug, uri), slugs) == (slug, uri)


@given(SLUGS)
def test_a_qualified_uri_begins_with_a_scheme_that_clients_parse(slug: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9+.-]*:///x", qualified_uri(slug, "file:///x"))


def test_a_qualified_uri_is_plain_where_the_slug_is() -> None:
    assert qualified_uri("crm", "file:///x") == "crm+file:///x"


@pytest.mark.parametrize("uri", ["file:///x", "other+file:///x", "crm+", "", "x:/crm+file"])
def test_a_uri_of_no_known_server_is_not_split(uri: str) -> None:
    assert split_qualified(uri, ["crm"]) is None
