"""Whatever stands in a configuration file: it is read, or everything wrong with it is told. Nothing else happens."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcpgateway import config
from mcpgateway.config.values import GatewayConfig, ServerConfig
from mcpgateway.errors import ConfigError
from tests.fuzz.profile import fuzzed
from tests.fuzz.spoiling import spoiled

DOCUMENTS = [
    """{
  // people write comments
  "mcpServers": {"time": {"command": "mcp-server-time", "args": ["--utc"], "env": {"TZ": "${TZ:-UTC}"}, "cwd": "/"},
                 'crm': {url: "http://127.0.0.1:9001/mcp?key=1", "headers": {"X-Api-Key": "${KEY}"}, "sessions": "auto",},},
  "gateway": {"auth": {"tokens": {"bob": {"hash": "sha256:0", "tenant": "acme"}}}, "session_pool": {"enabled": true}},
}""",
    json.dumps(
        {
            "servers": {
                "up": {
                    "url": "https://example.com/mcp",
                    "type": "streamable-http",
                    "credentials": {"alice": {"headers": {"X": "1"}}, "tenant:acme": {"headers": {"X": "2"}}},
                    "tls": {"ca": "ca.pem", "cert": "c.pem", "key": "k.pem"},
                    "oauth": {
                        "grant": "client_credentials",
                        "token_url": "https://a/t",
                        "client_id": "i",
                        "client_secret": "s",
                    },
                    "conversation_key": "header:X-Chat",
                    "spares": 3,
                    "sessions": "single_use",
                }
            },
            "gateway": {
                "auth": {"jwt": {"issuer": "https://i", "audience": "https://g", "jwks_url": "https://i/k"}},
                "access": [{"principals": ["a"], "servers": ["up"], "tools": ["*"]}],
                "limits": {"body_bytes": 4096},
                "public_url": "https://g",
                "allowed_hosts": ["g:1"],
                "audit": {"path": "a", "arguments": True},
            },
        }
    ),
]
TOKENS = [
    *(b"\" ' { } [ ] , : // /* */ \\ ${ } ${KEY} ${:-} $$ null true -0 1e999 0x1F NaN Infinity".split()),
    *(b"~nobody/x ~/x \\u0000 \\ud800 \xff \xe2\x80\xa8 http://[ https://a:99999/ file:///etc/passwd".split()),
    b"9" * 400,
    b"[" * 200,
]
ENVIRON = {"KEY": "secret", "TZ": "", "KEY2": "\0\r\n"}

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["${KEY}", "${", "${NO}", "~nobody", "a\0b", "http://[", "http://a", "https://a?b", "sha256:" + "0" * 64, "\ud800", "*"]
    )
)
THEIRS = "jwt tokens hash issuer audience jwks_url key_file ca cert key token_url client_secret headers alice tenant:x".split()
KEYS = st.sampled_from([*ServerConfig.__struct_fields__, *GatewayConfig.__struct_fields__, *THEIRS]) | st.text(max_size=5)


def values(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5)


VALUES = st.recursive(LEAVES, values, max_leaves=12)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "mcpServers": st.dictionaries(st.text(max_size=8), st.dictionaries(KEYS, VALUES, max_size=8), max_size=3) | VALUES,
        "servers": VALUES,
        "gateway": st.dictionaries(st.sampled_from(GatewayConfig.__struct_fields__), VALUES) | VALUES,
    },
)


def expect_a_configuration_or_its_faults(text: str) -> None:
    try:
        read = config.parse(text, "fuzz.json", ENVIRON)
    except ConfigError as error:
        assert str(error).startswith("fuzz.json"), str(error)
        assert "secret" not in str(error).lower() or "secret" in text.lower()
    else:
        assert isinstance(read, config.Config)
        assert "secret" not in repr(read)


@fuzzed(400)
@given(spoiled(st.sampled_from([document.encode() for document in DOCUMENTS]), TOKENS))
def test_a_spoiled_configuration_is_read_or_refused(text: bytes) -> None:
    expect_a_configuration_or_its_faults(text.decode("utf-8", "surrogateescape"))


@fuzzed(600)
@given(FILES)
def test_a_configuration_of_all_kinds_of_values_is_read_or_refused(document: dict[str, Any]) -> None:
    expect_a_configuration_or_its_faults(json.dumps(document))
