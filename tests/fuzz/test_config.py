"""Whatever stands in a configuration file: it is read, or everything wrong with it is told. Nothing else happens."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from mcpgateway import config
from mcpgateway.config.servers import _Entry
from mcpgateway.config.values import GatewayConfig, JwtConfig, LimitsConfig, OAuthConfig, PoolConfig, TlsConfig
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
                "access": [
                    {
                        "principals": ["a"],
                        "servers": ["up"],
                        "tools": [
                            "*",
                        ],
                    }
                ],
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
ENVIRON = {"KEY": "planted-in-the-environment", "TZ": "", "KEY2": "\0\r\n"}

ODD = st.sampled_from(
    [
        *(
            "a / http * ${ ${KEY} ${NO} ~nosuchuser/x a\0b \ud800 http://[ http://a https://a?b https://a:99999 header:X".split(
                " "
            )
        ),
        *("127.0.0.1 [::1]:99 sha256: token_exchange single_use principal:1".split(" ")),
        "sha256:" + "0" * 64,
        "x" * 5000,
        "a\r\nb: c",
    ]
)
PLAIN = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=12)
LEAVES = ODD | PLAIN


def up(**keys: Any) -> dict[str, Any]:
    """A file with one server that has these keys beside its URL."""
    return {"mcpServers": {"up": {"url": "http://127.0.0.1:9/mcp", **keys}}}


def section(*keys: str) -> st.SearchStrategy[Any]:
    """An object with some of these keys, and sometimes with none of them."""
    return st.dictionaries(st.sampled_from(keys), VALUES, max_size=len(keys)) | VALUES


VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text(max_size=4), LEAVES, max_size=3)
CALLERS = st.dictionaries(st.sampled_from(["alice", "tenant:acme", "tenant:", ""]), section("headers"), max_size=3)
SERVERS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(_Entry.__struct_fields__, VALUES),
        "credentials": CALLERS,
        "tls": section(*TlsConfig.__struct_fields__),
        "oauth": section(*OAuthConfig.__struct_fields__),
    },
)
RULES = st.lists(section("principals", "tenants", "groups", "issuers", "servers", "tools", "prompts"), max_size=2)
AUTH = st.fixed_dictionaries(
    {}, optional={"tokens": CALLERS | section("alice", "bob"), "jwt": section(*JwtConfig.__struct_fields__)}
)
GATEWAYS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(GatewayConfig.__struct_fields__, VALUES),
        "session_pool": section(*PoolConfig.__struct_fields__),
        "limits": section(*LimitsConfig.__struct_fields__),
        "auth": AUTH,
        "access": RULES,
        "public_url": st.just("https://gateway.example") | VALUES,
    },
)
FILES = st.fixed_dictionaries(
    {"mcpServers": st.dictionaries(st.sampled_from(["up", "u p", ""]) | st.text(max_size=4), SERVERS | VALUES, max_size=2)},
    optional={"servers": VALUES, "gateway": GATEWAYS | VALUES},
)


def expect_a_configuration_or_its_faults(text: str) -> None:
    try:
        read = config.parse(text, "fuzz.json", ENVIRON)
    except ConfigError as error:
        assert str(error).startswith("fuzz.json"), str(error)
        # Whoever looks for a file is told where it was looked for.
        told = [line for line in str(error).splitlines() if "_file:" not in line and ".tls:" not in line]
        assert ENVIRON["KEY"] not in "".join(told)
    else:
        assert isinstance(read, config.Config)
        assert ENVIRON["KEY"] not in repr(read)


@fuzzed(200)
@given(spoiled(st.sampled_from([document.encode() for document in DOCUMENTS]), TOKENS))
def test_a_spoiled_configuration_is_read_or_refused(text: bytes) -> None:
    expect_a_configuration_or_its_faults(text.decode("utf-8", "surrogateescape"))


@fuzzed(200)
@given(FILES)
@example(up(args="\U00010000"))
@example(up(headers={"X-\U00010000": "\U00010000"}))
@example(up(credentials_file="a\0b"))
@example(up(credentials_file="~nosuchuser/x"))
@example(up(tls={"ca": "a\0b"}))
@example(up(tls={"cert": "~nosuchuser/x", "key": "~nosuchuser/x"}))
def test_a_configuration_of_all_kinds_of_values_is_read_or_refused(document: dict[str, Any]) -> None:
    expect_a_configuration_or_its_faults(json.dumps(document))
