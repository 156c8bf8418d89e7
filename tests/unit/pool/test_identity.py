"""Identity: what tells callers apart, and what does not."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpgateway.pool.identity import PER_REQUEST_HEADERS, fingerprint, identity_hash

names = st.sampled_from(("Authorization", "X-Api-Key", "X-Tenant", "Cookie", "a", "ab"))
headers = st.dictionaries(names, st.text(max_size=6), max_size=4)


@settings(derandomize=True, database=None)
@given(first=headers, second=headers)
def test_i4_identities_are_the_same_exactly_where_all_identifying_headers_are(
    first: dict[str, str], second: dict[str, str]
) -> None:
    assert (identity_hash(first) == identity_hash(second)) is (first == second)


@settings(derandomize=True, database=None)
@given(first=st.lists(st.text(max_size=4), max_size=4), second=st.lists(st.text(max_size=4), max_size=4))
def test_i6_strings_are_not_joined(first: list[str], second: list[str]) -> None:
    assert (fingerprint(*first) == fingerprint(*second)) is (first == second)


def test_i4_header_names_compare_whatever_their_case_and_order() -> None:
    assert identity_hash({"X-Tenant": "a", "AUTHORIZATION": "b"}) == identity_hash({"authorization": "b", "x-tenant": "a"})


def test_i4_values_keep_their_case() -> None:
    assert identity_hash({"X-Tenant": "a"}) != identity_hash({"X-Tenant": "A"})


def test_i6_names_and_values_never_run_together() -> None:
    alike = ({"ab": "c"}, {"a": "bc"}, {"a": "b", "c": ""}, {"a": "", "b": "c"}, {"abc": ""}, {"a": "1:b"}, {})
    hashes = [identity_hash(each) for each in alike]
    assert len(set(hashes)) == len(alike)


def test_i6_what_is_further_told_apart_never_meets_a_header() -> None:
    assert len({identity_hash({"a": "b"}), identity_hash({}, "a", "b"), identity_hash({"a": "b"}, ""), identity_hash({})}) == 4


def test_i6_the_hash_has_its_full_length() -> None:
    assert len(identity_hash({"a": "b"})) == len(fingerprint("a")) == 64


@pytest.mark.parametrize("name", sorted(PER_REQUEST_HEADERS))
def test_p20_what_describes_one_request_is_no_identity(name: str) -> None:
    assert identity_hash({"X-Tenant": "a", name.title(): "1"}) == identity_hash({"X-Tenant": "a", name: "2"})


def test_no_headers_are_one_identity() -> None:
    assert identity_hash(None) == identity_hash({}) == identity_hash({"Accept": "*/*"})


def test_names_that_differ_only_in_case_both_count() -> None:
    pairs = itertools.permutations((("X-Tenant", "a"), ("x-tenant", "b")))
    hashes = {identity_hash(dict(pair)) for pair in pairs}
    assert len(hashes) == 1
    assert identity_hash({"X-Tenant": "a"}) not in hashes


def test_any_text_can_be_hashed() -> None:
    assert identity_hash({"X-Name": "Zoë \udcff"}) != identity_hash({"X-Name": "Zoë"})
