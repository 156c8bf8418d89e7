"""Whatever goes wrong in the TLS handshake with an upstream: a clear error in time, and nothing of it stays."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tests.clients.messages import text_of
from tests.fakes.cuttable_proxy import CONNECTIONS, CuttableProxy
from tests.faults.scene import client_of, expect_clear_error, expect_recovery, scene
from tests.servers.certificates import Authority
from tests.servers.raw_stub import Stub

DAY = datetime.timedelta(days=1)


def context_of(folder: Path, authority: Authority, days: int = 1, host: str = "127.0.0.1") -> ssl.SSLContext:
    """A server's context. `authority` signed its certificate for `host`; it expires in so many days."""
    path, key_path = (Path(each) for each in authority.write(folder, f"{host}-{days}"))
    signed = x509.load_pem_x509_certificate(path.read_bytes())
    path.write_bytes(_signed_again(signed, authority, days, host).public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    return context


def _signed_again(signed: x509.Certificate, authority: Authority, days: int, host: str) -> x509.Certificate:
    builder = x509.CertificateBuilder().subject_name(signed.subject).issuer_name(signed.issuer)
    builder = builder.public_key(signed.public_key()).serial_number(x509.random_serial_number())
    now = datetime.datetime.now(datetime.UTC)
    builder = builder.not_valid_before(now - 9 * DAY).not_valid_after(now + days * DAY)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
    identifier = signed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    builder = builder.add_extension(names, critical=False).add_extension(identifier, critical=False)
    return builder.sign(authority._key, hashes.SHA256())


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def proxy(stub: Stub, tmp_path: Path, authority: Authority) -> AsyncIterator[CuttableProxy]:
    """A proxy that serves TLS, sound until told otherwise."""
    async with CuttableProxy(stub.port, context_of(tmp_path, authority)) as proxy:
        yield proxy


@pytest.mark.parametrize("fault", list(CONNECTIONS))
@pytest.mark.parametrize("warm", [False, True], ids=["first call", "warm session"])
async def test_u4_a_handshake_that_breaks(
    warm: bool, fault: str, proxy: CuttableProxy, stub: Stub, authority: Authority, tmp_path: Path
) -> None:
    trust = {"tls": {"ca": authority.write_own(tmp_path)}, "timeout_seconds": 2}
    async with scene(proxy, stub, **trust) as here, client_of(here, warm=warm) as client, asyncio.timeout(20):
        await proxy.break_at("tls", fault)
        began = asyncio.get_running_loop().time()
        expect_clear_error(await here.call(client))
        assert asyncio.get_running_loop().time() - began < 8, "twice the time-out, for a call may be repeated, and some"
        assert proxy.struck.is_set()
        await expect_recovery(here)
        assert text_of(await here.call(client, "healed")) == "healed"


@pytest.mark.parametrize("fault", ["expired", "signed by nobody known", "for another host"])
async def test_u11_a_certificate_that_cannot_be_trusted(
    fault: str, proxy: CuttableProxy, stub: Stub, authority: Authority, tmp_path: Path
) -> None:
    trust = {"tls": {"ca": authority.write_own(tmp_path)}}
    async with scene(proxy, stub, **trust) as here, client_of(here, warm=True) as client, asyncio.timeout(20):
        if fault == "expired":
            await proxy.serve_with(context_of(tmp_path, authority, days=-1))
        elif fault == "signed by nobody known":
            await proxy.serve_with(context_of(tmp_path, Authority("somebody else")))
        else:
            await proxy.serve_with(context_of(tmp_path, authority, host="192.0.2.1"))
        calls = sum(request["rpc"] == "tools/call" for request in stub.seen.requests)
        message = await here.call(client)
        expect_clear_error(message)
        assert "TLS" in message["error"]["message"] or "certificate" in message["error"]["message"]
        assert sum(request["rpc"] == "tools/call" for request in stub.seen.requests) == calls, "nothing was said to it"
        await here.until_nothing_is_left()
        await proxy.serve_with(context_of(tmp_path, authority))
        assert text_of(await here.call(client, "healed")) == "healed"
