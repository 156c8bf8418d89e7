"""What a failed attempt to connect says."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

import pytest
import uvloop

from mcpgateway.errors import ConnectFailed
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.connection import Origin, _question, _reason

REFUSED = os.strerror(errno.ECONNREFUSED)
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_nobody_listening_is_said_in_the_systems_words_on_every_loop(
    loop: Callable[[], asyncio.AbstractEventLoop], host: str
) -> None:
    with socket.socket() as unused, asyncio.Runner(loop_factory=loop) as runner:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port meanwhile
        port = unused.getsockname()[1]
        origin = Origin("up", f"http://{host}:{port}/mcp", Sweep())
        with pytest.raises(ConnectFailed) as caught:
            runner.run(origin.send(b"GET", b"/mcp", b"", b"", 5))
    assert str(caught.value).endswith(f"cannot connect to {host}:{port}: {REFUSED}; is it running?")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 9)"), REFUSED),
        (
            OSError(f"Multiple exceptions: [Errno {errno.ECONNREFUSED}] Connect call failed, [Errno {errno.ENETUNREACH}] x"),
            f"{REFUSED} or {os.strerror(errno.ENETUNREACH)}",
        ),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (OSError("something else"), "something else"),
        (OSError(), "OSError"),
    ],
)
def test_the_reason_is_the_systems_own(error: OSError, said: str) -> None:
    assert _reason(error) == said


def test_of_a_host_that_is_not_found_it_is_asked_whether_its_name_is_right() -> None:
    assert _question(socket.gaierror(-2, "Name or service not known")) == "is the name right?"
    assert _question(ConnectionRefusedError()) == "is it running?"
