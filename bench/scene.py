"""Who calls whom: the stub, nginx and gateways running, every principal with a session of its own at every upstream."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.client import Client, Session
from bench.processes import GatewayProcess, Nginx, Process, Stub
from bench.stub import CREDENTIAL

DIRECT, NGINX, GATEWAY = "direct", "nginx", "gateway"
TARGETS = (DIRECT, NGINX, GATEWAY)
PLAIN, AUDITED, JOINED = "", "audited", "at /mcp"
"""Ways through the gateway: each upstream's own endpoint; with a record of every call; the endpoint of all upstreams."""
ROOM = 50_000
"""More sessions than any measurement opens: limits are not what is measured."""


@dataclass(frozen=True)
class Crowd:
    """How many principals call how many upstreams, each all of them, and by which way through the gateway."""

    principals: int
    upstreams: int
    way: str = PLAIN

    def __str__(self) -> str:
        return f"{self.principals:,} x {self.upstreams}{', ' if self.way else ''}{self.way}"


@dataclass(frozen=True)
class Target:
    """Something to send calls to: its port, the process to look at, and the file of its sessions."""

    name: str
    port: int
    process: Process
    sessions: Path


@dataclass(frozen=True)
class Scene:
    """Everything that runs."""

    stub: Stub
    targets: dict[tuple[Crowd, str], Target]


def tokens(count: int) -> list[str]:
    """The principals' bearer tokens. They open nothing but a bench's own gateway."""
    return [f"bench-token-of-p{number}" for number in range(count)]


def gateway_config(folder: Path, crowd: Crowd, ports: Sequence[int]) -> Path:
    """A configuration file: a token for each principal, and for each a credential of its own upstream."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"p{number}" for number in range(crowd.principals)]
    credentials = {name: {"headers": {"Authorization": f"Bearer {CREDENTIAL}{name}"}} for name in names}
    table = folder / "credentials.json"
    table.write_text(json.dumps(credentials))
    hashes = (f"sha256:{hashlib.sha256(token.encode()).hexdigest()}" for token in tokens(crowd.principals))
    gateway: dict[str, Any] = {
        "auth": {"tokens": dict(zip(names, hashes, strict=True))},
        "session_pool": {"max_sessions": ROOM, "max_sessions_per_upstream": ROOM},
        "limits": {"client_sessions": ROOM},
    }
    if crowd.way == AUDITED:
        gateway["audit"] = {"path": str(folder / "audit.log")}
    servers = {
        f"u{number}": {"type": "http", "url": f"http://127.0.0.1:{port}/mcp", "credentials_file": str(table)}
        for number, port in enumerate(ports)
    }
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers, "gateway": gateway}))
    return path


@contextmanager
def gateway(folder: Path, crowd: Crowd, stub: Stub) -> Iterator[GatewayProcess]:
    """A gateway for this crowd, ready."""
    config = gateway_config(folder, crowd, stub.ports[: crowd.upstreams])
    with GatewayProcess(folder, config) as process:
        process.until_ready()
        yield process


def open_sessions(port: int, crowd: Crowd, *, joined: bool = False) -> list[Session]:
    """A session of every principal at every upstream, each called once already. `joined`: one session for all upstreams."""
    with Client(port) as client:
        sessions = [
            session
            for token in tokens(crowd.principals)
            for session in (_joined(client, token, crowd) if joined else _apart(client, token, crowd))
        ]
        for session in sessions:
            client.call(session, "json_small")
    return sessions


def _apart(client: Client, token: str, crowd: Crowd) -> list[Session]:
    return [client.open(f"/servers/u{number}/mcp", token) for number in range(crowd.upstreams)]


def _joined(client: Client, token: str, crowd: Crowd) -> list[Session]:
    session = client.open("/mcp", token)
    return [replace(session, prefix=f"u{number}__") for number in range(crowd.upstreams)]


def keep(sessions: Sequence[Session], path: Path) -> Path:
    """Write sessions down for wrk."""
    path.write_text("".join(f"{session.line()}\n" for session in sessions))
    return path


@contextmanager
def scene(folder: Path, crowds: Sequence[Crowd]) -> Iterator[Scene]:
    """The stub, nginx, and a gateway for each crowd, so that none has more in its memory than its own crowd's sessions."""
    with ExitStack() as stack:
        stub = stack.enter_context(Stub(folder, max(crowd.upstreams for crowd in crowds)))
        nginx = stack.enter_context(Nginx(folder, stub.ports))
        targets = {}
        for number, crowd in enumerate(crowds):
            own = folder / f"gateway-{number}"
            process = stack.enter_context(gateway(own, crowd, stub))
            plain = keep(open_sessions(nginx.port, crowd), own / "plain.sessions")
            through = keep(open_sessions(process.port, crowd, joined=crowd.way == JOINED), own / "gateway.sessions")
            targets[crowd, DIRECT] = Target(DIRECT, stub.ports[0], stub, plain)
            targets[crowd, NGINX] = Target(NGINX, nginx.port, nginx, plain)
            targets[crowd, GATEWAY] = Target(GATEWAY, process.port, process, through)
        yield Scene(stub, targets)
