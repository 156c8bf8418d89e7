"""The processes that a measurement looks at: each on a core of its own choice, and what the kernel knows of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from bench.client import BenchFailed, Client

PROJECT = Path(__file__).resolve().parents[1]
GATEWAY_CORE = 0
"""What is under test runs here, nginx or the gateway; nothing else of the bench's does."""
LOAD_CORE = 1
START_SECONDS = 60.0
STOP_SECONDS = 10.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def busy_seconds(core: int) -> float:
    """How long a core has been busy since the machine's start, whoever with."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _wait, *interrupts = map(int, line.split()[1:8])
            return (user + nice + system + sum(interrupts)) / TICKS_PER_SECOND
    return 0.0


def can_pin() -> bool:
    """Whether there are two cores to keep apart."""
    return {GATEWAY_CORE, LOAD_CORE} <= os.sched_getaffinity(0)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started meanwhile stays on this core for life."""
    before = os.sched_getaffinity(0)
    if can_pin():
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A child with its output in a file. Ended by its own id. Used as a context manager."""

    def __init__(self, command: Sequence[str], folder: Path, core: int) -> None:
        self.log = folder / f"{Path(command[0]).name}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log, on_core(core):
            self._child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=PROJECT)
        self.pid = self._child.pid

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pid}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._child.send_signal(signal.SIGTERM)
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def line(self) -> str:
        """The next line that it prints."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline().decode()
        if not line:
            raise self.failed("ended early")
        return line

    def failed(self, what: str) -> BenchFailed:
        return BenchFailed(f"{self!r} {what}; its log ends: {self.log.read_text(errors='replace')[-2000:]}")

    @property
    def cpu_seconds(self) -> float:
        """Time on a core since its start, all threads, user and kernel."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    @property
    def resident(self) -> float:
        """MiB in memory now."""
        return self._status("VmRSS")

    @property
    def peak(self) -> float:
        """The most MiB in memory since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, field: str) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
        raise self.failed("is gone")


class Stub(Process):
    """The upstream, on as many ports as there are upstreams. It shares its core with wrk."""

    def __init__(self, folder: Path, upstreams: int) -> None:
        super().__init__([sys.executable, "-m", "bench.stub", "--ports", str(upstreams)], folder, LOAD_CORE)
        self.ports: list[int] = json.loads(self.line())["ports"]

    def stats(self) -> dict[str, Any]:
        with Client(self.ports[0]) as client:
            found: dict[str, Any] = json.loads(client.get("/stats").body)
        return found


class Nginx(Process):
    """nginx as a plain reverse proxy with connections kept upstream: one process, which needs no rights."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.port = free_port()
        config = folder / "nginx.conf"
        config.write_text(nginx_config(folder, self.port, ports))
        super().__init__([program("nginx"), "-p", str(folder), "-c", str(config), "-e", "stderr"], folder, GATEWAY_CORE)
        until_listening(self, self.port)


class GatewayProcess(Process):
    """The gateway as `mcpgateway serve` runs it."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.began = time.perf_counter()
        super().__init__([sys.executable, "-m", "mcpgateway", "serve", str(config), "--port", "0"], folder, GATEWAY_CORE)
        self.port = int(self.line().rpartition(":")[2].partition("/")[0])

    def until_ready(self) -> float:
        """Seconds from its start until it has tried all its upstreams."""
        with Client(self.port) as client:
            while client.get("/readyz").status != 200:
                if time.perf_counter() - self.began > START_SECONDS:
                    raise self.failed("did not get ready")
                time.sleep(0.002)
        return time.perf_counter() - self.began


def program(name: str) -> str:
    """Where a program is. Raises BenchFailed saying how to get it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
    if found is None:
        raise BenchFailed(f"the bench needs {name}, which is not installed here; on Debian: apt-get install {name}")
    return found


def free_port() -> int:
    """A port that nobody listens on, for a program that cannot choose one itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def until_listening(process: Process, port: int) -> None:
    """Wait until something accepts connections at `port`."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            with Client(port):
                return
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise process.failed(f"does not listen on port {port}")


def nginx_config(folder: Path, port: int, upstreams: Sequence[int]) -> str:
    """A configuration that proxies `/servers/uN/` to the N-th upstream, and does nothing else: it has no access log."""
    temporary = "".join(
        f"  {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    pools = "".join(
        f"  upstream u{number} {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}\n"
        for number, upstream in enumerate(upstreams)
    )
    places = "".join(
        f"    location /servers/u{number}/ {{ proxy_pass http://u{number}/; }}\n" for number in range(len(upstreams))
    )
    return (
        f"worker_processes 1;\ndaemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr warn;\n"
        f"events {{ worker_connections 4096; }}\nhttp {{\n  access_log off;\n{temporary}{pools}"
        "  keepalive_requests 100000000;\n  proxy_http_version 1.1;\n  proxy_set_header Connection '';\n"
        "  proxy_max_temp_file_size 0;\n"
        f"  server {{\n    listen 127.0.0.1:{port} backlog=1024;\n{places}  }}\n}}\n"
    )
