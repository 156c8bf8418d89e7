"""Credentials out of the configuration."""

from __future__ import annotations

import pytest

from mcpgateway.auth.credentials import StaticCredentials
from mcpgateway.auth.principals import ANONYMOUS, Principal
from mcpgateway.config.values import CallerHeaders
from mcpgateway.errors import CredentialMissing

ALICE = Principal("static", "alice", "acme")
BOB = Principal("static", "bob", "acme")
EVE = Principal("static", "eve")
CALLERS = [
    CallerHeaders((("X-KEY", "alices"),), subject="alice"),
    CallerHeaders((("x-key", "acmes"), ("X-Acme", "1")), tenant="acme"),
]
HEADERS = [("X-Key", "everybodys"), ("X-Version", "3")]


def credentials(*, required: bool = False, forward: tuple[str, ...] = ()) -> StaticCredentials:
    return StaticCredentials(HEADERS, forward, upstream="crm", callers=CALLERS, required=required)


def lines_of(found: StaticCredentials, principal: Principal | None, *headers: tuple[bytes, bytes]) -> list[bytes]:
    credential = found.ready(principal, headers)
    assert credential is not None
    return sorted(credential.lines.split(b"\r\n")[:-1])


def test_a_principals_own_entry_goes_before_its_tenants_and_that_before_everybodys() -> None:
    found = credentials()
    assert lines_of(found, ALICE) == [b"x-key: alices", b"x-version: 3"]
    assert lines_of(found, BOB) == [b"x-acme: 1", b"x-key: acmes", b"x-version: 3"]
    assert lines_of(found, EVE) == lines_of(found, None) == [b"x-key: everybodys", b"x-version: 3"]


@pytest.mark.parametrize("subject", ["tenant:acme", "acme", ""])
def test_a_subject_that_looks_like_a_tenant_gets_nothing_of_that_tenant(subject: str) -> None:
    assert b"x-key: acmes" not in lines_of(credentials(), Principal("static", subject))


def test_i5_a_namesake_from_another_issuer_gets_nothing_of_a_principals() -> None:
    assert b"x-key: alices" not in lines_of(credentials(), Principal("https://idp.example", "alice"))
    assert b"x-key: acmes" not in lines_of(credentials(), Principal("https://idp.example", "carol", "acme"))


def test_a_tenant_named_like_a_principal_gets_nothing_of_that_principal() -> None:
    assert b"x-key: alices" not in lines_of(credentials(), Principal("static", "mallory", "alice"))


async def test_who_has_no_entry_where_one_is_required_is_refused_and_told_what_to_configure() -> None:
    found = credentials(required=True)
    for stranger in (EVE, ANONYMOUS):
        assert found.ready(stranger, ()) is None
        with pytest.raises(CredentialMissing, match=r"upstream 'crm': .* adds you or your tenant .* credentials") as caught:
            await found.obtain(stranger, ())
        assert caught.value.refused_before_dispatch and not caught.value.connection_level
        with pytest.raises(CredentialMissing):
            found.identity(stranger, ())
    assert (await found.obtain(ALICE, ())) == found.ready(ALICE, ())
    assert found.ready(None, ()) == found.own  # the gateway itself is nobody's caller


def test_i4_forwarded_headers_and_entries_compare_without_letter_case() -> None:
    found = credentials(forward=("X-TEAM",))
    assert lines_of(found, ALICE, (b"x-team", b"red"), (b"authorization", b"Bearer mine")) == [
        b"x-key: alices",
        b"x-team: red",
        b"x-version: 3",
    ]
    red, blue = (found.ready(ALICE, [(b"x-team", team)]) for team in (b"red", b"blue"))
    assert red is not None and blue is not None and red.identity != blue.identity


def test_i6_headers_that_run_together_alike_are_different_identities() -> None:
    one, other = (StaticCredentials([pair]).own.identity for pair in (("ab", "c"), ("a", "bc")))
    assert one != other and len(one) == 64


def test_a_static_credential_that_was_refused_is_not_tried_again() -> None:
    found = credentials()
    assert not found.refused(ALICE, found.own)


def test_p21_no_repr_shows_a_header() -> None:
    found = credentials()
    assert "alices" not in f"{found!r} {found.ready(ALICE, ())!r} {CALLERS!r}"


def test_the_older_form_gives_what_everybody_gets() -> None:
    found = credentials(forward=("x-team",))
    assert found.of([(b"x-team", b"red")]) == found.ready(EVE, [(b"x-team", b"red")])
    assert found.of(()) == found.own
