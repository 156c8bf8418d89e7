"""Runs one stdio server and leaves none of its processes behind. A program of its own; it imports only the standard library.

A gateway that is killed outright can end nobody, and closing a server's stdin ends only servers that look: `npx` starts a
shell that starts a node that keeps running. The kernel's parent-death signal reaches the first child alone and exists on
one system. So a small process stands between: it starts the server in a process group of its own and watches our end of
the stderr pipe. When nobody holds the reading end any more, because the gateway closed it or died, it kills the group.
SIGTERM is passed on to the group; when the server ends, what remains of its group is killed, and its exit code passed on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import threading

COMMAND_NOT_STARTED = 127


def main(argv: list[str]) -> int:
    """Run the command in `argv` to its end; its exit code, or 128 plus the number of the signal that ended it."""
    try:
        server = os.posix_spawnp(argv[0], argv, os.environ, setpgroup=0)
    except OSError as error:
        sys.stderr.write(f"cannot start {argv[0]!r}: {error.strerror}{_hint(argv[0], error)}\n")
        return COMMAND_NOT_STARTED
    signal.signal(signal.SIGTERM, lambda *_: _signal_group(server, signal.SIGTERM))
    threading.Thread(target=_guard, args=(server,), daemon=True).start()
    _let_go_of_stdin_and_stdout()
    _, status = os.waitpid(server, 0)
    # A group that still has members keeps its number for itself, and an empty one is not found.
    _signal_group(server, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _hint(command: str, error: OSError) -> str:
    if error.errno != errno.ENOENT:
        return ""
    return "; arguments belong into args" if " " in command else "; is it installed, and on the PATH?"


def _guard(server: int) -> None:
    lifeline = select.poll()
    lifeline.register(2, 0)  # the loss of the other end is reported without being asked for
    lifeline.poll()
    _signal_group(server, signal.SIGKILL)


def _let_go_of_stdin_and_stdout() -> None:
    """Only the server holds its pipes, so that each side sees the other close them."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
