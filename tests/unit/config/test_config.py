"""The configuration file: what is taken from it, and what is said of a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcpgateway import config
from mcpgateway.config import Config, ServerConfig
from mcpgateway.errors import ConfigError

A_HASH = "a" * 64
B_HASH = "b" * 64


def parsed(document: dict[str, Any] | str, **environ: str) -> Config:
    text = document if isinstance(document, str) else json.dumps(document)
    return config.parse(text, "mcp.json", environ)


def refusal(document: dict[str, Any] | str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(document, **environ)
    return str(caught.value)


def server(entry: dict[str, Any], **environ: str) -> ServerConfig:
    return parsed({"mcpServers": {"crm": entry}}, **environ).servers[0]


def server_refusal(entry: dict[str, Any], **environ: str) -> str:
    return refusal({"mcpServers": {"crm": {"url": "http://h/mcp"} | entry}}, **environ)


def gateway(settings: dict[str, Any], **environ: str) -> config.GatewayConfig:
    return parsed({"mcpServers": {}, "gateway": settings}, **environ).gateway


def gateway_refusal(settings: dict[str, Any]) -> str:
    return refusal({"mcpServers": {}, "gateway": settings})


def test_a_file_as_people_have_it_is_taken_as_it_is() -> None:
    found = parsed(
        """{
        // comments and trailing commas
        "inputs": [{"id": "key"}],
        "mcpServers": {
            "time": {"command": "mcp-server-time", "args": ["-v"], "env": {"TZ": "UTC"}, "disabled": false, "autoApprove": []},
            "crm": {"type": "http", "url": "https://crm.example/mcp", "headers": {"X-Api-Key": "${CRM_KEY}"}, "gallery": true,},
        },}""",
        CRM_KEY="k-123456",
    )
    time, crm = found.servers
    assert (time.command, time.args, time.env, time.type) == ("mcp-server-time", ("-v",), (("TZ", "UTC"),), "stdio")
    assert (crm.url, crm.type, crm.headers) == ("https://crm.example/mcp", "streamablehttp", (("X-Api-Key", "k-123456"),))
    assert time.enabled and crm.enabled
    assert found.gateway == config.GatewayConfig()


def test_the_servers_of_vs_code_are_read_too() -> None:
    assert [
        each.name for each in parsed({"servers": {"a": {"command": "x"}}, "mcpServers": {"b": {"command": "y"}}}).servers
    ] == [
        "b",
        "a",
    ]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("http", "streamablehttp"),
        ("streamable-http", "streamablehttp"),
        ("streamableHttp", "streamablehttp"),
        ("sse", "sse"),
        ("", "auto"),
    ],
)
def test_the_type_of_a_url_is_understood_as_clients_write_it(written: str, meant: str) -> None:
    assert server({"url": "http://h/mcp", "type": written}).type == meant


@pytest.mark.parametrize("entry", [{"disabled": True}, {"enabled": False}])
def test_a_disabled_server_may_be_broken(entry: dict[str, Any]) -> None:
    assert not server({"url": "${NOT_SET}"} | entry).enabled


def test_our_own_keys_are_read() -> None:
    found = server({"url": "http://h/", "sessions": "bound", "timeout_seconds": 5, "forward_headers": ["X-Team"]})
    assert (found.sessions, found.timeout_seconds, found.forward_headers) == ("bound", 5.0, ("x-team",))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${KEY}", "k"),
        ("${env:KEY}", "k"),
        ("a${KEY}b${KEY}", "akbk"),
        ("${NONE:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${KEY:-d}", "k"),
        ("${EMPTY}", ""),
        ("$${KEY}", "${KEY}"),
        ("$KEY", "$KEY"),
    ],
)
def test_the_environment_is_substituted(written: str, value: str) -> None:
    found = server({"command": "x", "args": [written], "env": {"A": written}}, KEY="k", EMPTY="")
    assert found.args == (value,) and found.env == (("A", value),)


def test_strings_of_the_gateway_are_substituted_too() -> None:
    found = gateway({"public_url": "https://${NAME}/", "allowed_hosts": ["${NAME}"]}, NAME="Mcp.example")
    assert found.public_url == "https://Mcp.example" and found.allowed_hosts == ("mcp.example",)


def test_tokens_have_one_hash_or_several() -> None:
    tokens = {"alice": [f"sha256:{A_HASH}", f"sha256:{'C' * 64}"], "bob": {"hash": f"sha256:{B_HASH}", "tenant": "acme"}}
    auth = gateway({"auth": {"tokens": tokens}}).auth
    assert auth is not None
    found = [(token.name, token.hash, token.tenant) for token in auth.tokens]
    assert found == [("alice", A_HASH, ""), ("alice", "c" * 64, ""), ("bob", B_HASH, "acme")]


JWT = {
    "issuer": "https://id.example.com/",
    "audience": "https://mcp.example.com",
    "jwks_url": "https://id.example.com/jwks.json",
}


def jwt(changed: dict[str, Any] | list[Any], **environ: str) -> tuple[config.JwtConfig, ...]:
    written = changed if isinstance(changed, list) else JWT | changed
    found = gateway({"public_url": "https://mcp.example.com/", "auth": {"jwt": written}}, **environ).auth
    assert found is not None and found.tokens == ()
    return found.jwt


def test_an_issuer_of_jwts_is_read_as_it_is_written() -> None:
    (found,) = jwt(
        {"leeway_seconds": 5, "tenant_claim": "org", "algorithms": ["ES256"], "jwks_url": "${JWKS}"}, JWKS="https://x/"
    )
    assert (found.issuer, found.audience, found.jwks_url) == (
        "https://id.example.com/",
        ("https://mcp.example.com",),
        "https://x/",
    )
    assert (found.leeway_seconds, found.tenant_claim, found.algorithms) == (5.0, "org", ("ES256",))
    assert found.subject_claim == "sub" and "none" not in config.JwtConfig().algorithms


def test_there_may_be_several_issuers_and_audiences() -> None:
    audiences = ["https://mcp.example.com/mcp", "https://mcp.example.com"]
    found = jwt([JWT, JWT | {"issuer": "https://b", "audience": audiences}])
    assert [each.issuer for each in found] == ["https://id.example.com/", "https://b"]
    assert found[1].audience == tuple(audiences)


def test_a_key_file_lies_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(b'{"keys": []}')
    written = JWT | {"key_file": "keys.json", "algorithms": ["HS256"]}
    del written["jwks_url"]
    document = {"mcpServers": {}, "gateway": {"public_url": "https://mcp.example.com", "auth": {"jwt": written}}}
    (tmp_path / "mcp.json").write_text(json.dumps(document), encoding="utf-8")
    auth = config.load(str(tmp_path / "mcp.json"), {}).gateway.auth
    assert auth is not None and auth.jwt[0].keys == b'{"keys": []}'
    (tmp_path / "keys.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match=r"gateway\.auth\.jwt\.key_file: is larger than 1 MiB"):
        config.load(str(tmp_path / "mcp.json"), {})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"issuer": ""}, "auth.jwt.issuer: expected the issuer's URL exactly as it stands in its tokens"),
        ({"issuer": "static"}, "auth.jwt.issuer: expected the issuer's URL"),
        ({"issuer": "https://x/#a"}, "auth.jwt.issuer: expected the issuer's URL"),
        ({"issuer": 5}, "auth.jwt.issuer: expected a string, found a number"),
        ({"audience": []}, "auth.jwt.audience: is missing; it is the URL of this gateway"),
        (
            {"audience": ["https://mcp.example.com", "https://mcp.example.com.evil"]},
            "audience: must be gateway.public_url or begin",
        ),
        ({"audience": [5]}, "auth.jwt.audience[0]: expected a string, found a number"),
        ({"jwks_url": ""}, "auth.jwt: needs one of jwks_url and key_file, and not both"),
        ({"key_file": "keys.json"}, "auth.jwt: needs one of jwks_url and key_file, and not both"),
        ({"jwks_url": "http://id.example.com/jwks"}, "auth.jwt.jwks_url: must begin with https://"),
        ({"jwks_url": "file:///etc/passwd"}, "auth.jwt.jwks_url: expected a URL"),
        ({"jwks_url": "", "key_file": "/no/such"}, "auth.jwt.key_file: cannot be read: No such file"),
        ({"jwks_url": "", "key_file": "a\u0000b"}, "auth.jwt.key_file: cannot be read: not a path"),
        ({"algorithms": ["none"]}, "auth.jwt.algorithms: expected some of RS256,"),
        ({"algorithms": ["HS256"]}, "auth.jwt.algorithms: HS256, HS384 and HS512 need a shared secret"),
        ({"algorithms": []}, "auth.jwt.algorithms: is empty"),
        ({"leeway_seconds": 301}, "auth.jwt.leeway_seconds: expected a number from 0 to 300"),
        ({"subject_claim": ""}, "auth.jwt.subject_claim: is empty"),
        ({"keys": ""}, "auth.jwt.keys: unknown key"),
        ({"jwksUrl": ""}, "auth.jwt.jwksUrl: unknown key; did you mean 'jwks_url'?"),
        ([JWT, JWT], "auth.jwt[1].issuer: given twice"),
        ([], "auth.jwt: expected an object, or a list of objects"),
        (["x"], "auth.jwt[0]: expected an object"),
    ],
)
def test_a_wrong_issuer_is_refused(changed: Any, said: str) -> None:
    written = changed if isinstance(changed, list) else JWT | changed
    assert said in gateway_refusal({"public_url": "https://mcp.example.com", "auth": {"jwt": written}})


@pytest.mark.parametrize("url", ["http://localhost:8080/jwks", "http://127.0.0.1/jwks", "http://[::1]:9/jwks"])
def test_keys_may_come_over_plain_http_from_this_machine(url: str) -> None:
    assert jwt({"jwks_url": url})[0].jwks_url == url


def test_jwts_need_the_url_they_are_issued_for() -> None:
    assert "gateway.auth.jwt: needs gateway.public_url" in gateway_refusal({"auth": {"jwt": JWT}})


def access(*rules: Any) -> tuple[config.AccessRule, ...]:
    servers = {name: {"command": "x"} for name in ("crm", "crm-test", "my time")}
    found = parsed({"mcpServers": servers, "gateway": {"access": list(rules)}}).gateway.access
    assert found is not None
    return found


def test_without_a_table_there_are_no_rules() -> None:
    assert gateway({}).access is None


def test_a_rule_names_who_may_use_which_servers() -> None:
    one, two, three = access(
        {"who": "everyone", "servers": ["my_time"]},
        {"who": {"group": ["dev", "ops"], "tenant": "acme"}, "servers": ["crm*", "my time"]},
        {"who": {"principal": "alice", "issuer": "static"}, "servers": "*"},
    )
    assert one == config.AccessRule(servers=("my_time",))
    assert (two.servers, two.groups, two.tenants) == (("crm", "crm-test", "my_time"), ("dev", "ops"), ("acme",))
    assert (three.servers, three.principals, three.issuers) == (two.servers, ("alice",), ("static",))


def test_a_rule_that_names_some_kind_allows_no_other() -> None:
    (found,) = access({"who": "everyone", "servers": ["crm"], "tools": ["read_*"]})
    assert (found.tools, found.resources, found.prompts) == (("read_*",), (), ())


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([], "gateway.access: expected a list with at least one rule"),
        ({"who": "everyone"}, "gateway.access: expected a list with at least one rule"),
        (["x"], "gateway.access[0]: expected an object"),
        ([{"servers": ["crm"]}], 'gateway.access[0].who: expected "everyone", or an object'),
        ([{"who": {}, "servers": ["crm"]}], 'gateway.access[0].who: expected "everyone", or an object'),
        ([{"who": "alice", "servers": ["crm"]}], 'gateway.access[0].who: expected "everyone", or an object'),
        ([{"who": {"user": "a"}, "servers": ["crm"]}], "gateway.access[0].who.user: unknown key; known here: principal,"),
        ([{"who": {"principal": []}, "servers": ["crm"]}], "gateway.access[0].who.principal: is empty"),
        ([{"who": {"principal": ""}, "servers": ["crm"]}], "gateway.access[0].who.principal: expected a string or a list"),
        ([{"who": {"group": 5}, "servers": ["crm"]}], "gateway.access[0].who.group: expected a string or a list of strings"),
        ([{"who": "everyone"}], "gateway.access[0].servers: expected a string or a list of strings"),
        ([{"who": "everyone", "servers": []}], "gateway.access[0].servers: is empty"),
        ([{"who": "everyone", "servers": ["crmm"]}], "there is no server 'crmm'; did you mean 'crm'?"),
        ([{"who": "everyone", "servers": ["*", "zzz"]}], "there is no server 'zzz'; there are: crm"),
        ([{"who": "everyone", "servers": ["crm"], "tool": []}], "gateway.access[0].tool: unknown key; did you mean 'tools'?"),
        ([{"who": "everyone", "servers": ["crm"], "tools": [1]}], "gateway.access[0].tools: expected a string or a list"),
    ],
)
def test_a_wrong_rule_is_refused(rules: Any, said: str) -> None:
    assert said in refusal({"mcpServers": {"crm": {"command": "x"}}, "gateway": {"access": rules}})


def test_all_problems_are_told_at_once_each_with_its_line() -> None:
    text = """{
  "mcpServers": {
    "crm": {
      "url": "http://h/mcp",
      "timeout_seconds": -5
    }
  },
  "gateway": {"session_pool": {"max_session": 1},
    "drain_seconds": "ten"}
}"""
    assert refusal(text).splitlines() == [
        "mcp.json:5: mcpServers.crm.timeout_seconds: expected a number from 0.01 to 604800, found -5",
        "mcp.json:8: gateway.session_pool.max_session: unknown key; did you mean 'max_sessions'?",
        'mcp.json:9: gateway.drain_seconds: expected a number from 0 to 604800, found "ten"',
    ]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"header": {}}, "mcpServers.crm.header: unknown key; did you mean 'headers'?"),
        ({"forwardHeaders": []}, "did you mean 'forward_headers'?"),
        ({"session": "auto"}, "did you mean 'sessions'?"),
        ({"serverUrl": "http://x"}, "did you mean 'url'?"),
        ({"sessions": "own"}, 'expected one of auto, bound, principal, shared, single_use, found "own"'),
        ({"enabled": "yes"}, 'expected true or false, found "yes"'),
        ({"timeout_seconds": True}, "expected a number from 0.01 to 604800, found true"),
        ({"timeout_seconds": 1e999}, "found Infinity"),
        ({"type": "websocket"}, "mcpServers.crm.type: expected one of http, streamable-http, sse, stdio"),
        ({"type": "stdio"}, "a url is not spoken to over stdio"),
        ({"command": "x"}, "has both url and command"),
        ({"enabled": True, "disabled": True}, "enabled and disabled are both true"),
        ({"headers": []}, "mcpServers.crm.headers: expected an object of strings, found a list"),
        ({"headers": {"X-N": 5}}, "mcpServers.crm.headers.X-N: expected a string, found a number"),
        ({"headers": {"X N": "5"}}, 'mcpServers.crm.headers["X N"]: not a header name'),
        ({"headers": {"Host": "x"}}, "mcpServers.crm.headers.Host: this header belongs to the gateway itself"),
        ({"headers": {"mcp-session-id": "x"}}, "this header belongs to the gateway itself"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "letter case makes no difference"),
        ({"forward_headers": ["Authorization"]}, "a client's own token never goes upstream"),
        ({"forward_headers": ["Content-Length"]}, "this header belongs to the gateway itself"),
        ({"forward_headers": ["x-a"], "headers": {"X-A": "1"}}, "'x-a' has a fixed value in headers"),
    ],
)
def test_a_wrong_server_entry_is_refused(entry: dict[str, Any], said: str) -> None:
    assert said in server_refusal(entry)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "needs a url (a server that runs already) or a command (one to start)"),
        ({"command": " "}, "mcpServers.crm.command: is empty"),
        ({"command": "x", "type": "sse"}, "a command is spoken to over stdio"),
        ({"command": "x", "headers": {"A": "b"}}, "a command has no headers"),
        ({"command": "x", "forward_headers": ["a"]}, "a command takes no headers"),
        ({"command": "x", "args": [1]}, "mcpServers.crm.args[0]: expected a string, found a number"),
        ({"command": "x", "env": {"PORT": 3000}}, "mcpServers.crm.env.PORT: expected a string, found a number"),
        ({"command": "${NOPE}"}, "the environment has no NOPE; set it, or write ${NOPE:-default}"),
        ({"command": "${input:key}"}, "${input:key} is not known here"),
        ("x", "mcpServers.crm: expected an object"),
    ],
)
def test_a_wrong_command_entry_is_refused(entry: dict[str, Any], said: str) -> None:
    assert said in refusal({"mcpServers": {"crm": entry}})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://h/", "must begin with http:// or https://"),
        ("h/mcp", "must begin with http:// or https://"),
        ("http:///mcp", "names no host"),
        ("http://h:99999/", "not a URL: its host or port is malformed"),
        ("http://u:p@h/", "holds a user name or password"),
        ("http://h/#top", "has a #fragment"),
        ("http://h/a b", "must be printable ASCII without spaces"),
        ("", "must be printable ASCII without spaces"),
    ],
)
def test_a_wrong_url_is_refused(url: str, said: str) -> None:
    assert f"mcpServers.crm.url: {said}" in server_refusal({"url": url})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sesion_pool": {}}, "gateway.sesion_pool: unknown key; did you mean 'session_pool'?"),
        ({"limits": {"colour": 1}}, "gateway.limits.colour: unknown key; known here: body_bytes,"),
        ({"limits": 4}, "gateway.limits: expected an object, found 4"),
        ({"limits": {"body_bytes": 1.5}}, "expected a whole number from 1024 to 1073741824, found 1.5"),
        ({"session_pool": {"max_sessions": 0}}, "expected a whole number from 1 to 10000000, found 0"),
        ({"session_pool": {"enabled": 1}}, "expected true or false, found 1"),
        ({"public_url": "mcp.example.com"}, "gateway.public_url: expected the URL clients use"),
        ({"allowed_hosts": ["http://x"]}, "gateway.allowed_hosts[0]: expected a host"),
        ({"allowed_origins": ["x"]}, "gateway.allowed_origins[0]: expected an origin"),
        ({"logs": {"level": "loud"}}, 'gateway.logs.level: expected one of debug, error, info, warning, found "loud"'),
        ({"auth": {}}, "gateway.auth.tokens: expected an object with at least one token"),
        ({"auth": {"tokens": {}}}, "gateway.auth.tokens: expected an object with at least one token"),
        ({"auth": {"token": {}}}, "gateway.auth.token: unknown key; did you mean 'tokens'?"),
        ({"auth": {"tokens": {"a": f"sha256:{A_HASH}", "b": f"sha256:{A_HASH}"}}}, "the same hash as 'a'"),
        ({"auth": {"tokens": {"a": {"hash": f"sha256:{A_HASH}", "tennant": ""}}}}, "did you mean 'tenant'?"),
        ({"auth": {"tokens": {"a": {"hash": f"sha256:{A_HASH}", "tenant": 5}}}}, "tokens.a.tenant: expected a string"),
        ({"auth": {"tokens": {"a": []}}}, 'tokens.a: expected "sha256:" and 64 hex digits'),
        ({"auth": {"tokens": {"": f"sha256:{A_HASH}"}}}, "1 to 200 printable characters"),
    ],
)
def test_a_wrong_setting_of_the_gateway_is_refused(settings: dict[str, Any], said: str) -> None:
    assert said in gateway_refusal(settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", 'mcp.json: expected an object, {"mcpServers": …}'),
        ("{}", 'mcp.json: there is no "mcpServers" object in this file'),
        ('{\n"mcpServers": {,}}', "mcp.json:2: not JSON: Unexpected"),
        ("[" * 5000, "mcp.json: nested too deeply"),
        ('{"mcpServers": []}', "mcp.json:1: mcpServers: expected an object"),
        ('{"mcpServers": {}, "gatway": {}}', "gatway: unknown key; did you mean 'gateway'?"),
        ('{"mcpServers": {}, "gateway": []}', "gateway: expected an object, found a list"),
    ],
)
def test_a_file_of_another_shape_is_refused(text: str, said: str) -> None:
    assert said in refusal(text)


def test_a_name_given_twice_is_refused_with_both_lines() -> None:
    text = '{"mcpServers": {\n"crm": {"command": "x"},\n/* the same\nagain */ "cr\\u006d": {"command": "y"}}}'
    assert refusal(text) == "mcp.json:4: mcpServers.crm: given twice, first on line 2; keep one"


def test_a_name_under_both_headings_is_refused() -> None:
    text = refusal({"mcpServers": {"crm": {"command": "x"}}, "servers": {"crm": {"command": "x"}}})
    assert "servers.crm: there is another server of this name" in text


def test_two_names_with_one_slug_are_refused() -> None:
    text = refusal({"mcpServers": {"my crm": {"command": "x"}, "my_crm": {"command": "x"}}})
    assert "mcpServers.my_crm: its short name 'my_crm' is also that of 'my crm'; rename one" in text


def test_a_name_that_leaves_no_slug_is_refused() -> None:
    assert "a server's name needs a letter or digit" in refusal({"mcpServers": {"日本": {"command": "x"}}})


@pytest.mark.parametrize("value", ["s3cret\nvalue", "s3cret€value"])
def test_header_values_that_http_cannot_carry_are_refused_without_being_shown(value: str) -> None:
    said = server_refusal({"headers": {"X-Key": "${KEY}"}}, KEY=value)
    assert "mcpServers.crm.headers.X-Key: its value holds" in said and "s3cret" not in said


def test_no_error_shows_what_may_be_secret() -> None:
    planted = "s3cret-of-the-house"
    said = refusal(
        {
            "mcpServers": {
                "a": {"url": f"ftp://h/?key={planted}", "headers": {"X-A": f"{planted}\n", "X-B": "${" + planted + "}"}},
                "b": {"url": "${URL}", "headers": planted},
                "c": {"command": "x", "env": planted, "args": planted, "heade": planted},
            },
            "gateway": {
                "auth": {"tokens": {"alice": planted, "bob": {"hash": planted, "secret": planted}}},
                "public_url": "${URL}",
            },
        },
        URL=planted,
    )
    assert planted not in said


def test_no_repr_shows_what_may_be_secret() -> None:
    planted = "s3cret-of-the-house"
    entry = {"url": "http://h/?key=${KEY}", "headers": {"X-A": "${KEY}"}}
    command = {"command": "${KEY}", "args": ["${KEY}"], "env": {"A": "${KEY}"}}
    found = parsed({"mcpServers": {"a": entry, "b": command}, "gateway": {"public_url": "https://${KEY}"}}, KEY=planted)
    assert planted not in f"{found!r} {found.servers!r} {found.gateway!r}"


def test_secrets_are_told_to_whoever_hides_them() -> None:
    entry = {"url": "http://h/?key=q-secret", "headers": {"Authorization": "Bearer t-secret"}}
    command = {"command": "x", "env": {"A": "${KEY}", "B": "plain"}}
    found = parsed({"mcpServers": {"a": entry, "b": command}}, KEY="e-secret").secrets
    assert {"q-secret", "Bearer t-secret", "t-secret", "e-secret"} == set(found)


def test_headers_that_files_copy_from_one_another_are_passed_over() -> None:
    entry = {"url": "http://h/", "headers": {"Accept": "a", "Content-Type": "b", "X-A": " 1 "}}
    assert server(entry).headers == (("X-A", "1"),)


@pytest.mark.parametrize(
    ("host", "needed"),
    [
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("localhost", False),
        ("::1", False),
        ("[::1]", False),
        ("0.0.0.0", True),
        ("::", True),
        ("", True),
        ("192.168.1.2", True),
        ("localhost.example.com", True),
    ],
)
def test_only_loopback_needs_no_authentication(host: str, needed: bool) -> None:
    assert config.needs_auth(host) is needed


def test_serving_others_without_authentication_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gateway\.auth is missing"):
        config.check_exposure(parsed({"mcpServers": {}}), "0.0.0.0")


def test_a_file_is_loaded_and_found_where_clients_keep_it(tmp_path: Path) -> None:
    place = tmp_path / ".vscode" / "mcp.json"
    place.parent.mkdir()
    place.write_text('\ufeff{"servers": {"a": {"command": "x"}}}', encoding="utf-8")
    assert config.find(tmp_path) == str(place)
    assert config.load(str(place), {}).servers[0].name == "a"


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"looked for mcp\.json, \.mcp\.json"):
        config.find(tmp_path)
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read: No such file"):
        config.load(str(tmp_path / "none.json"), {})
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(ConfigError, match="not UTF-8 at byte 7"):
        config.load(str(tmp_path / "latin.json"), {})
