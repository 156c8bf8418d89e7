"""Files that the configuration names: those read beside it, and the audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcpgateway import config
from mcpgateway.config import Config
from mcpgateway.errors import ConfigError


def written(folder: Path, **document: Any) -> str:
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {}} | document), encoding="utf-8")
    return str(path)


def audited(folder: Path, path: str) -> Config:
    return config.load(written(folder, gateway={"audit": {"path": path}}), {})


def test_the_audit_log_lies_beside_the_configuration_and_is_not_made_yet(tmp_path: Path) -> None:
    assert audited(tmp_path, "audit.jsonl").gateway.audit.path == str(tmp_path / "audit.jsonl")
    assert audited(tmp_path, str(tmp_path / "a")).gateway.audit.path == str(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mcp.json"]
    (tmp_path / "audit.jsonl").touch()
    assert audited(tmp_path, "audit.jsonl").gateway.audit.path == str(tmp_path / "audit.jsonl")


def test_the_audit_log_may_lie_in_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert audited(tmp_path, "~/audit.jsonl").gateway.audit.path == str(tmp_path / "audit.jsonl")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("a\0b", "no name that a file can have"),
        (".", "is a folder; expected the name of a file"),
        ("none/audit.jsonl", "none is not there; make it first"),
        ("~nosuchuser", "begins with the home of a user that there is none of"),
        ("~nosuchuser/audit.jsonl", "begins with the home of a user that there is none of"),
        ("a" * 300, "cannot be used: File name too long"),
        ("mcp.json/audit.jsonl", "mcp.json is not there; make it first|cannot be used: Not a directory"),
    ],
)
def test_a_path_that_no_audit_log_can_have_is_a_problem_like_others(tmp_path: Path, path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"gateway\.audit\.path: .*({said})"):
        audited(tmp_path, path)


@pytest.mark.parametrize("keys", ['{"alice": {"headers": {"X-Key": "a"}}}', '{"alice": 5}', "no JSON", None])
def test_files_that_were_read_are_named_even_where_they_are_no_use(tmp_path: Path, keys: str | None) -> None:
    if keys is not None:
        (tmp_path / "keys.json").write_text(keys)
    jwt = {"issuer": "https://id.example", "audience": "https://mcp.example", "key_file": "issuer.pem"}
    server = {"url": "https://crm.example/mcp", "credentials_file": "keys.json"}
    gateway = {"public_url": "https://mcp.example", "auth": {"jwt": jwt}}
    path = written(tmp_path, mcpServers={"crm": server}, gateway=gateway)
    files: set[str] = set()
    with pytest.raises(ConfigError, match="key_file: cannot be read"):
        config.load(path, {}, files)
    assert files == {str(tmp_path / "keys.json"), str(tmp_path / "issuer.pem")}
