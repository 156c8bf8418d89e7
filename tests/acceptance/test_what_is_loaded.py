"""A gateway holds in memory what its configuration uses. Libraries that are large and not used are not loaded."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.process import PROJECT

SERVED = """
import atexit, sys
from mcpgateway.cli import main

atexit.register(lambda: print("loaded:", *sys.modules))
main()
"""
TOKEN = {"tokens": {"alice": f"sha256:{'a' * 64}"}}
JWT = {"jwt": [{"issuer": "https://i.example", "audience": "https://mcp.example", "jwks_url": "https://i.example/keys"}]}


def loaded(folder: Path, auth: dict[str, Any]) -> set[str]:
    """The packages that a gateway has loaded by the time it ends."""
    path = folder / "mcp.json"
    gateway = {"public_url": "https://mcp.example", "auth": auth}
    path.write_text(json.dumps({"mcpServers": {}, "gateway": gateway}), encoding="utf-8")
    command = [sys.executable, "-c", SERVED, "serve", str(path), "--port", "0"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline().startswith("Serving")
            process.send_signal(signal.SIGINT)  # unlike SIGTERM, it is no end without a last word
            said = process.stdout.read()
        finally:
            process.kill()
    told = next(line for line in said.splitlines() if line.startswith("loaded:"))
    return {name.partition(".")[0] for name in told.split()}


@pytest.mark.parametrize("library", ["pydantic", "cryptography", "jwt", "opentelemetry"])
def test_a_gateway_for_static_tokens_does_without(tmp_path: Path, library: str) -> None:
    assert library not in loaded(tmp_path, TOKEN)


def test_what_verifies_jwts_is_loaded_where_an_issuer_is_configured(tmp_path: Path) -> None:
    assert {"jwt", "cryptography"} <= loaded(tmp_path, TOKEN | JWT)
