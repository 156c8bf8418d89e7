"""A server on TLS that wants to know who calls."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

from tests.servers.answering import AnsweringServer
from tests.servers.certificates import Authority
from tests.servers.http11 import Request, reply


class MutualTlsServer(AnsweringServer):
    """Lets in whoever shows a certificate that `authority` signed; `say` makes the answer of the name in it."""

    def __init__(self, authority: Authority, folder: Path, say: Callable[[str], bytes] = str.encode) -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.write_own(folder, "clients.pem"))
        tls.load_cert_chain(*authority.write(folder, "server"))
        tls.verify_mode = ssl.CERT_REQUIRED
        super().__init__(tls)
        self._say = say

    @property
    def base(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> None:
        shown = writer.get_extra_info("peercert")["subject"][0][0][1]
        await reply(writer, 200, self._say(shown))
