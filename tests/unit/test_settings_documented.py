"""Every setting has an entry in the reference, with its default and floor as they are in the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from mcpgateway.config import GatewayConfig, JwtConfig, LimitsConfig, LogsConfig, PoolConfig, ServerConfig
from mcpgateway.config.values import AuditConfig, OAuthConfig, TlsConfig, TracingConfig

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
SECTIONS = {
    "mcpServers.NAME": ServerConfig,
    "mcpServers.NAME.oauth": OAuthConfig,
    "mcpServers.NAME.tls": TlsConfig,
    "gateway": GatewayConfig,
    "gateway.auth.jwt": JwtConfig,
    "gateway.session_pool": PoolConfig,
    "gateway.limits": LimitsConfig,
    "gateway.logs": LogsConfig,
    "gateway.audit": AuditConfig,
    "gateway.tracing": TracingConfig,
}
NOT_WRITTEN_BY_PEOPLE = {"name", "slug", "keys"}
SETTINGS = [
    (f"{section}.{field.name}", field)
    for section, kind in SECTIONS.items()
    for field in msgspec.structs.fields(kind)
    if field.name not in NOT_WRITTEN_BY_PEOPLE
]


def entry(name: str) -> str:
    """The text under a setting's heading."""
    _, heading, rest = REFERENCE.partition(f"### `{name}`\n")
    assert heading, f"docs/reference/settings.md has no entry for {name}"
    return rest.split("\n#", 1)[0]


@pytest.mark.parametrize(("name", "field"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_a_setting_is_documented_with_its_default_and_floor(name: str, field: Any) -> None:
    facts, _, paragraph = entry(name).strip().partition("\n\n")
    assert len(paragraph.split()) >= 5
    if isinstance(field.default, bool | int | float):
        default = str(field.default).lower() if isinstance(field.default, bool) else f"{field.default:g}"
        assert f"default `{default}`" in facts.replace("_", "") or f"default `{field.default}`" in facts
    kind = inspect.type_info(field.type)
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        assert f"floor `{kind.ge}`" in facts
    if isinstance(kind, inspect.LiteralType) and name != "mcpServers.NAME.type":
        assert all(f"`{value}`" in entry(name) for value in kind.values)


@pytest.mark.parametrize("name", ["gateway.auth.tokens", "gateway.auth.jwt"])
def test_settings_that_are_read_by_hand_are_documented_too(name: str) -> None:
    assert entry(name)


def test_the_reference_has_no_setting_that_is_not_there() -> None:
    known = {name for name, _ in SETTINGS} | {"gateway.auth.tokens", "gateway.auth.jwt", "mcpServers.NAME.disabled"}
    headings = {line[5:-1] for line in REFERENCE.splitlines() if line.startswith("### `")}
    assert headings <= known
