"""Principals: who is the same as whom."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgateway.auth.principals import ANONYMOUS, Principal

NAMES = st.tuples(st.text(max_size=3), st.text(max_size=3), st.text(max_size=3))


@given(NAMES, NAMES)
def test_ids_are_equal_only_for_equal_issuer_subject_and_tenant(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (Principal(*one).id == Principal(*other).id) == (one == other)


def test_an_id_does_not_run_its_parts_together() -> None:
    assert Principal("i", "ab", "c").id != Principal("i", "a", "bc").id


def test_groups_do_not_change_who_someone_is() -> None:
    assert Principal("i", "a", groups=("admin",)).id == Principal("i", "a").id


def test_the_short_form_tells_apart_without_telling_who() -> None:
    alice, bob = Principal("i", "alice"), Principal("i", "bob")
    assert alice.short != bob.short and len(alice.short) == 12
    assert "alice" not in alice.short


def test_a_principal_never_changes() -> None:
    with pytest.raises(FrozenInstanceError):
        ANONYMOUS.subject = "root"  # type: ignore[misc]
