"""The pool key."""

from __future__ import annotations

import pytest

from mcpgateway.pool.key import PoolKey, place_of, shown_url

KEY = PoolKey(
    "alice@example.com", "http://crm.test/mcp?key=s3cret", "ab12" * 16, "streamablehttp", partition="bound:conversation-1"
)


def test_the_first_four_places_are_user_url_identity_and_transport() -> None:
    assert KEY[:4] == (KEY.user, KEY.url, KEY.identity, KEY.transport)


@pytest.mark.parametrize("field", PoolKey._fields)
def test_i1_keys_that_differ_in_any_field_are_different(field: str) -> None:
    assert KEY._replace(**{field: "else"}) != KEY


def test_p21_no_repr_shows_who_calls_or_a_query() -> None:
    assert repr(KEY) == "<PoolKey http://crm.test/mcp streamablehttp ab12ab12 bound:convers>"
    assert repr(KEY._replace(upstream="crm", partition="")) == "<PoolKey crm streamablehttp ab12ab12 >"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://crm.test/mcp?key=s3cret", "http://crm.test/mcp"),
        ("https://user:s3cret@crm.test:8443/mcp#s3cret", "https://crm.test:8443/mcp"),
        ("http://[s3cret", "(no URL)"),
    ],
)
def test_p21_what_may_be_secret_in_a_url_is_not_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_i8_two_upstreams_with_one_url_are_two_places() -> None:
    assert place_of(KEY) == KEY.url
    assert place_of(KEY._replace(upstream="crm")) != place_of(KEY._replace(upstream="crm-test"))
