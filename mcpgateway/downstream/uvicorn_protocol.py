"""uvicorn's HTTP protocol with the limits it lacks: header size, slow senders, readers that stop reading."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mcpgateway.downstream.guard import HEAD_TOO_LARGE, LINGER_SECONDS, NOT_HTTP, TOO_LATE, Guard, Refusal, Stalled, refuse


class UvicornProtocol(HttpToolsProtocol):
    """A connection whose requests must arrive within `read_seconds` and whose answers must be taken.

    Slow senders are met by a deadline in the sweep, which costs a set entry per request and no timer.
    """

    def __init__(self, *args: Any, guard: Guard, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guard = guard
        self._in_head = True
        self._bodiless = 0
        """Bytes since the request began, or since its last byte of body: head, chunk extensions, trailers."""
        self._refused = False
        self._running: RequestResponseCycle | None = None
        self._stalled: Stalled | None = None
        self.deadline = 0.0

    def __repr__(self) -> str:
        return f"<UvicornProtocol {self.client}{' refused' if self._refused else ''}>"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.sweep.forget(self)
        self.resume_writing()
        self.pipeline.clear()
        # uvicorn tells the newest request; the one that is being answered may be an earlier one.
        self._tell_disconnected(self._running)
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    @staticmethod
    def _tell_disconnected(cycle: RequestResponseCycle | None) -> None:
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _expect_request(self) -> None:
        self.deadline = self._guard.sweep.now() + self._guard.read_seconds
        self._guard.sweep.watch(self)

    def expire(self) -> None:
        """The request did not arrive in time, or who was refused has had time enough to read it."""
        if self._refused:
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._answers_earlier():
            self._expect_request()  # what is not read yet, because an earlier request is being answered, is not late
        elif self._in_head and self._bodiless == 0:
            self.transport.close()
        elif self._in_head or not self.cycle.response_started:
            self._refuse(TOO_LATE)
        else:
            self.transport.abort()

    def _answers_earlier(self) -> bool:
        running = self._running
        return running is not None and not running.response_complete and (self._in_head or running is not self.cycle)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._bodiless += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(NOT_HTTP)
        if self._bodiless > self._guard.header_bytes:
            self._refuse(HEAD_TOO_LARGE)

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                data = self._without_upgrade() + data[stopped.args[0] :]
            else:
                return

    def _without_upgrade(self) -> bytes:
        """The head of a request that offered another protocol, as if it had not: some clients do with each request.

        The parser takes what follows such a head for the other protocol, and leaves the body unread.
        """
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does with each parser
        return line + b"".join(b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade") + b"\r\n"

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._refused:
            self._expect_request()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers are no headers: they come when the request has been let in already.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._refused:
            return  # what stands behind a request that was refused is none
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            return  # it is read again without its offer
        # A head that came at once: four bytes more for each header are its punctuation.
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self._guard.header_bytes:
            self._refuse(HEAD_TOO_LARGE)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bodiless = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._bodiless = 0
        self._in_head = True
        if not self._refused and not self.parser.should_upgrade():
            self._guard.sweep.forget(self)
            super().on_message_complete()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer and end the connection."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if self._running is not None and self._running.response_started and not self._running.response_complete:
            self.transport.abort()  # the refusal would read like a part of that response
            return
        self._tell_disconnected(self._running)
        if refuse(self.transport, refusal):
            self.deadline = self._guard.sweep.now() + LINGER_SECONDS
            self._guard.sweep.watch(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._guard.watch_stalled(self.transport)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._guard.sweep.forget(self._stalled)
            self._stalled = None
        super().resume_writing()
