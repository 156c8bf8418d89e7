"""TLS per upstream, against a server that wants to see a certificate of its own authority."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mcpgateway.config.values import TlsConfig
from mcpgateway.errors import ConfigError, UpstreamError
from mcpgateway.runtime import Sweep
from mcpgateway.upstream import tls
from mcpgateway.upstream.connection import Origin
from mcpgateway.upstream.tls import TlsContexts
from tests.fakes.clock import FakeClock
from tests.fakes.files import replace
from tests.servers.certificates import Authority
from tests.servers.mutual_tls import MutualTlsServer


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def server(authority: Authority, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a server that answers with the name in the client's certificate."""
    async with MutualTlsServer(authority, tmp_path) as server:
        yield f"{server.base}/mcp"


@asynccontextmanager
async def origin(url: str, context: ssl.SSLContext) -> AsyncIterator[Origin]:
    sweep = Sweep()
    made = Origin("crm", url, sweep, context)
    try:
        yield made
    finally:
        await made.aclose()
        sweep.close()


async def shown(url: str, context: ssl.SSLContext) -> str:
    """The name that the server read in our certificate. Raises UpstreamError where it lets nobody in."""
    async with origin(url, context) as http, asyncio.timeout(5):
        return (await http.send(b"GET", b"/mcp", b"", b"", 5)).body.decode()


def settings(authority: Authority, folder: Path, name: str = "gateway", password: str = "") -> TlsConfig:
    cert, key = authority.write(folder, name, password)
    return TlsConfig(ca=authority.write_own(folder), cert=cert, key=key, key_password=password)


async def test_the_certificate_is_shown_and_the_private_authority_trusted(
    authority: Authority, server: str, tmp_path: Path
) -> None:
    assert await shown(server, TlsContexts().context(settings(authority, tmp_path))) == "gateway"


async def test_an_encrypted_key_is_opened_with_its_password(authority: Authority, server: str, tmp_path: Path) -> None:
    assert await shown(server, TlsContexts().context(settings(authority, tmp_path, password="pass phrase"))) == "gateway"


async def test_certificate_and_key_may_stand_in_one_file(authority: Authority, server: str, tmp_path: Path) -> None:
    (tmp_path / "both.pem").write_bytes(b"".join(authority.signed("in one")))
    both = TlsConfig(ca=authority.write_own(tmp_path), cert=str(tmp_path / "both.pem"))
    assert await shown(server, TlsContexts().context(both)) == "in one"


async def test_without_a_certificate_the_server_lets_nobody_in(authority: Authority, server: str, tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="crm"):
        await shown(server, TlsContexts().context(TlsConfig(ca=authority.write_own(tmp_path))))


@pytest.mark.parametrize("private", [True, False])
async def test_a_server_of_another_authority_is_not_trusted(
    authority: Authority, server: str, tmp_path: Path, private: bool
) -> None:
    trusted = TlsConfig(ca=Authority("another").write_own(tmp_path)) if private else None
    with pytest.raises(UpstreamError, match="CERTIFICATE_VERIFY_FAILED"):
        await shown(server, TlsContexts().context(trusted))


async def test_a_server_of_another_name_is_not_trusted(authority: Authority, server: str, tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="CERTIFICATE_VERIFY_FAILED"):
        await shown(server.replace("127.0.0.1", "localhost"), TlsContexts().context(settings(authority, tmp_path)))


def test_p18_one_context_serves_all_with_the_same_settings(authority: Authority, tmp_path: Path) -> None:
    contexts, one = TlsContexts(), settings(authority, tmp_path)
    same = TlsConfig(ca=one.ca, cert=one.cert, key=one.key)
    assert contexts.context(one) is contexts.context(same)
    assert contexts.context(None) is contexts.context(None)
    assert contexts.context(TlsConfig(ca=one.ca)) is not contexts.context(one)


async def test_u11_changed_files_make_a_new_context_and_a_new_generation(
    authority: Authority, server: str, tmp_path: Path, clock: FakeClock
) -> None:
    contexts, one = TlsContexts(clock), settings(authority, tmp_path)
    old = contexts.context(one)
    assert contexts.generation(one) == 1
    cert, key = authority.signed("renewed")
    replace(one.cert, cert)
    replace(one.key, key)
    assert contexts.generation(one) == 1  # looked at a moment ago
    clock.advance(tls.LOOK_SECONDS)
    assert contexts.generation(one) == 2 and contexts.context(one) is not old
    assert await shown(server, contexts.context(one)) == "renewed"
    clock.advance(tls.LOOK_SECONDS)
    assert contexts.generation(one) == 2


async def test_files_that_do_not_fit_each_other_change_nothing_until_they_do(
    authority: Authority, server: str, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    contexts, one = TlsContexts(clock), settings(authority, tmp_path)
    old = contexts.context(one)
    cert, key = authority.signed("renewed")
    replace(one.cert, cert)
    clock.advance(tls.LOOK_SECONDS)
    assert contexts.context(one) is old and contexts.generation(one) == 1
    assert "the old ones stay in force" in caplog.text and one.cert in caplog.text
    assert await shown(server, contexts.context(one)) == "gateway"
    replace(one.key, key)
    clock.advance(tls.LOOK_SECONDS)
    assert contexts.generation(one) == 2 and await shown(server, contexts.context(one)) == "renewed"


def test_a_file_that_vanishes_changes_nothing_and_is_said_once(
    authority: Authority, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    contexts, one = TlsContexts(clock), settings(authority, tmp_path)
    old = contexts.context(one)
    Path(one.ca).unlink()
    for _ in range(3):
        clock.advance(tls.LOOK_SECONDS)
        assert contexts.context(one) is old
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.WARNING


def test_files_that_were_never_any_use_are_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ca: .*none\.pem: No such file"):
        TlsContexts().context(TlsConfig(ca=str(tmp_path / "none.pem")))


def test_p21_no_repr_shows_a_password(authority: Authority, tmp_path: Path) -> None:
    contexts, one = TlsContexts(), settings(authority, tmp_path, password="pass phrase")
    contexts.context(one)
    assert "pass phrase" not in f"{one!r} {contexts!r} {contexts._current(one)!r}"
