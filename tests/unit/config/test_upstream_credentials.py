"""What a server's entry says of credentials, TLS and sessions, and what is said of a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcpgateway import config
from mcpgateway.config import Config, ServerConfig
from mcpgateway.config.values import CallerHeaders, OAuthConfig, TlsConfig
from mcpgateway.errors import ConfigError
from tests.servers.certificates import Authority

OAUTH = {"token_url": "https://idp.example/token", "client_id": "gw", "client_secret": "${SECRET}"}
PLANTED = "planted-secret"
A_NUMBER = 481516234


def parsed(entry: dict[str, Any], path: str = "mcp.json", **gateway: Any) -> Config:
    document = {"mcpServers": {"crm": {"url": "https://crm.example/mcp"} | entry}, "gateway": gateway}
    return config.parse(json.dumps(document), path, {"SECRET": PLANTED})


def server(entry: dict[str, Any], path: str = "mcp.json", **gateway: Any) -> ServerConfig:
    return parsed(entry, path, **gateway).servers[0]


def letting_in(*issuers: str) -> dict[str, Any]:
    """The settings of a gateway that lets in tokens of these issuers."""
    keys = "https://keys.example/jwks"
    jwts = [{"issuer": each, "audience": "https://mcp.example", "jwks_url": keys} for each in issuers]
    return {"public_url": "https://mcp.example", "auth": {"jwt": jwts}}


def refusal(entry: dict[str, Any], path: str = "mcp.json") -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(entry, path)
    return str(caught.value)


@pytest.fixture
def here(tmp_path: Path) -> str:
    """A configuration file's path, so that relative ones begin beside it."""
    return str(tmp_path / "mcp.json")


def test_credentials_of_callers_and_tenants_are_read() -> None:
    entries = {"alice": {"headers": {"X-Key": "${SECRET}", "Accept": "x"}}, "tenant:acme": {"headers": {"X-Key": " k "}}}
    found = server({"credentials": entries, "credentials_required": True})
    assert found.credentials == (
        CallerHeaders((("X-Key", PLANTED),), subject="alice"),
        CallerHeaders((("X-Key", "k"),), tenant="acme"),
    )
    assert found.credentials_required and not server({}).credentials_required


def test_credentials_may_stand_in_a_file_of_their_own(tmp_path: Path, here: str) -> None:
    (tmp_path / "keys.json").write_text('{/* ours */ "bob": {"headers": {"X-Key": "${SECRET}"}},}', encoding="utf-8")
    found = server({"credentials": {"alice": {"headers": {"X-Key": "a"}}}, "credentials_file": "keys.json"}, here)
    assert [each.subject for each in found.credentials] == ["alice", "bob"]
    assert found.credentials[1].headers == (("X-Key", PLANTED),)
    assert found.credentials_file == str(tmp_path / "keys.json")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"credentials": []}, 'credentials: expected an object, {"NAME"'),
        ({"credentials": {"alice": PLANTED}}, "credentials.alice: expected an object, found a string"),
        ({"credentials": {"alice": {}}}, 'credentials.alice: expected {"headers": {…}} with at least one header'),
        ({"credentials": {"alice": []}}, "credentials.alice: expected an object, found a list"),
        ({"credentials": {"alice": [PLANTED]}}, "credentials.alice[0]: expected an object, found a string"),
        (
            {"credentials": {"alice": [{"headers": {"X": PLANTED}}, {"headers": {"X": "2"}}]}},
            "credentials.alice[1]: there is another entry for this name and the issuer static; keep one",
        ),
        (
            {"credentials": {"alice": {"header": {"X": PLANTED}}}},
            "credentials.alice.header: unknown key; did you mean 'headers'?",
        ),
        (
            {"credentials": {"alice": {"headers": {"X": A_NUMBER}}}},
            "credentials.alice.headers.X: expected a string, found a number",
        ),
        ({"credentials": {"alice": {"headers": {"Host": "x"}}}}, "this header belongs to the gateway itself"),
        ({"credentials": {"alice": {"headers": {"X": f"{PLANTED}\n"}}}}, "alice.headers.X: its value holds a line break"),
        ({"credentials": {"tenant:": {"headers": {"X": "1"}}}}, "names nobody"),
        ({"credentials": {"": {"headers": {"X": "1"}}}}, "names nobody"),
        ({"credentials": {"alice": {"headers": {"X-A": "1"}}}, "forward_headers": ["x-a"]}, "so clients could set it"),
        ({"credential": {}}, "unknown key; did you mean 'credentials'?"),
        ({"credentials_file": "none.json"}, "none.json: cannot be read: No such file"),
        ({"credentials_required": 1}, "credentials_required: expected true or false, found 1"),
        ({"oauth": OAUTH | {"client_secret": A_NUMBER}}, "oauth.client_secret: expected a string, found a number"),
        ({"oauth": {"client_id": "gw"}}, "oauth.token_url: is missing or empty"),
        ({"oauth": {"client_id": "gw"}}, "oauth.client_secret: is missing or empty"),
        ({"oauth": OAUTH | {"scopes": "x"}}, "oauth.scopes: unknown key; did you mean 'scope'?"),
        ({"oauth": OAUTH | {"grant": "password"}}, "oauth.grant: expected one of client_credentials, token_exchange"),
        ({"oauth": OAUTH | {"auth_method": "none"}}, "expected one of client_secret_basic, client_secret_post"),
        ({"oauth": OAUTH | {"audience": "crm"}}, "oauth.audience: belongs to the grant token_exchange"),
        ({"oauth": OAUTH | {"token_url": "http://idp.example/t"}}, "oauth.token_url: must begin with https://"),
        ({"oauth": OAUTH | {"token_url": f"https://u:{PLANTED}@idp.example/"}}, "holds a user name, password"),
        ({"oauth": OAUTH | {"token_url": f"{PLANTED}/t"}}, "expected a URL like"),
        ({"oauth": OAUTH | {"token_url": f"https://h:{PLANTED}/t"}}, "its host or port is malformed"),
        ({"oauth": OAUTH, "headers": {"authorization": "x"}}, "headers hold an Authorization already"),
        ({"oauth": OAUTH, "credentials": {"a": {"headers": {"Authorization": "x"}}}}, "headers hold an Authorization already"),
        ({"oauth": OAUTH | {"tls": []}}, "oauth.tls: expected an object with ca, cert or key"),
        ({"tls": PLANTED}, "tls: expected an object with ca, cert or key, found a string"),
        ({"tls": {"insecure": True}}, "tls.insecure: certificates are always checked; name the CA"),
        ({"tls": {"cafile": "x"}}, "tls.cafile: unknown key"),
        ({"tls": {"ca": "none.pem"}}, "tls: ca: "),
        ({"tls": {"key": "a.key"}}, "tls.key: a key without its certificate"),
        ({"tls": {"key_password": A_NUMBER}}, "tls.key_password: expected a string, found a number"),
        ({"spares": 2}, 'spares: has an effect only with "sessions": "single_use"'),
        ({"sessions": "single_use", "spares": -1}, "spares: expected a whole number from 0 to 1000, found -1"),
        ({"conversation_key": "X-Conversation"}, "conversation_key: expected header: and a header's name, or meta:"),
        ({"conversation_key": "meta:"}, "conversation_key: expected header: and a header's name, or meta:"),
        ({"conversation_key": "header:X Y"}, "conversation_key: 'X Y': not a header name"),
        ({"conversation_key": "header:Authorization"}, "a token does not name a conversation"),
        ({"on_session_loss": "retry"}, "on_session_loss: expected one of end, renew"),
    ],
)
def test_a_wrong_entry_is_refused_without_what_may_be_secret(entry: dict[str, Any], said: str) -> None:
    text = refusal(entry)
    assert said in text and PLANTED not in text and str(A_NUMBER) not in text


@pytest.mark.parametrize("key", ["credentials", "credentials_file", "credentials_required", "oauth", "tls"])
def test_a_command_is_shown_no_credential(key: str) -> None:
    value = {"credentials_file": "x", "credentials_required": True, "oauth": OAUTH}.get(key, {})
    with pytest.raises(ConfigError, match=rf"mcpServers\.crm\.{key}: is for servers with a url"):
        config.parse(json.dumps({"mcpServers": {"crm": {"command": "x", key: value}}}), "mcp.json", {"SECRET": "s"})


def test_a_name_in_both_places_is_refused(tmp_path: Path, here: str) -> None:
    alice = {"alice": {"headers": {"X-Key": "a"}}}
    (tmp_path / "keys.json").write_text(json.dumps(alice), encoding="utf-8")
    text = refusal({"credentials": alice, "credentials_file": "keys.json"}, here)
    assert text == (
        f"{tmp_path / 'keys.json'}:1: alice: there is another entry for this name and the issuer static; keep one"
        " (read for mcpServers.crm.credentials_file)"
    )


def test_i5_one_name_may_have_an_entry_for_each_issuer(tmp_path: Path, here: str) -> None:
    one, other = "https://one.example", "https://other.example"
    entries: dict[str, Any] = {
        "alice": [{"headers": {"X-Key": "static"}}, {"issuer": one, "headers": {"X-Key": "one"}}],
        "tenant:acme": [{"issuer": one, "headers": {"X-Key": "acme"}}],
    }
    (tmp_path / "keys.json").write_text(json.dumps({"alice": {"issuer": other, "headers": {"X-Key": "other"}}}))
    found = server({"credentials": entries, "credentials_file": "keys.json"}, here, **letting_in(one, other)).credentials
    assert found == (
        CallerHeaders((("X-Key", "static"),), subject="alice"),
        CallerHeaders((("X-Key", "one"),), subject="alice", issuer=one),
        CallerHeaders((("X-Key", "acme"),), tenant="acme", issuer=one),
        CallerHeaders((("X-Key", "other"),), subject="alice", issuer=other),
    )


@pytest.mark.parametrize("gateway", [{}, letting_in("https://other.example")])
def test_i5_an_entry_for_an_issuer_whose_tokens_are_not_let_in_is_refused(
    tmp_path: Path, here: str, gateway: dict[str, Any]
) -> None:
    entry = {"issuer": "https://one.example", "headers": {"X-Key": PLANTED}}
    statics = {"bob": {"headers": {"X-Key": "b"}}, "carol": {"issuer": "static", "headers": {"X-Key": "c"}}}
    (tmp_path / "keys.json").write_text(json.dumps({"tenant:acme": entry} | statics))
    with pytest.raises(ConfigError) as caught:
        parsed({"credentials": {"alice": [entry]}, "credentials_file": "keys.json"}, here, **gateway)
    first, second = str(caught.value).splitlines()
    assert "mcpServers.crm.credentials.alice[0].issuer: no tokens of this issuer are let in (gateway.auth.jwt)" in first
    assert second.startswith(f'{tmp_path / "keys.json"}:1: ["tenant:acme"].issuer: no tokens of this issuer')
    assert first.endswith("'static' and 'https://other.example'" if gateway else "known here: 'static'")
    assert PLANTED not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", 'keys.json: expected an object, {"NAME": '),
        (b"{\n,}", "keys.json:2: not JSON"),
        (b'{"a": "\xe9"}', "keys.json: not UTF-8 at byte 7"),
        (
            b'{"alice": {"headers": {"X": "1"}},\n"alice": {"headers": {"X": "2"}}}',
            "keys.json:2: alice: given twice, first on line 1; keep one",
        ),
        (b'{"alice":\n{"headers":\n{"X": "${NOPE}"}}}', "keys.json:3: alice.headers.X: the environment has no NOPE"),
        (b'{"alice": {"headers": {"X": 481516234}}}', "keys.json:1: alice.headers.X: expected a string, found a number"),
        (b'{"alice": "planted-secret"}', "keys.json:1: alice: expected an object, found a string"),
        (b'{"alice": {"headers": {"X": "planted-secret\\n"}}}', "keys.json:1: alice.headers.X: its value holds a line break"),
        (b'{"a": 1}', "keys.json:1: a: expected an object"),
    ],
)
def test_what_is_wrong_in_a_credentials_file_is_told_as_that_files_and_without_secrets(
    tmp_path: Path, here: str, content: bytes, said: str
) -> None:
    (tmp_path / "keys.json").write_bytes(content)
    (first, *_) = refusal({"credentials_file": "keys.json"}, here).splitlines()
    assert first.startswith(f"{tmp_path / said}") and first.endswith("(read for mcpServers.crm.credentials_file)")
    assert PLANTED not in first and str(A_NUMBER) not in first


def test_a_credentials_file_that_is_not_there_is_a_fault_of_the_configuration(here: str) -> None:
    text = refusal({"credentials_file": "none.json"}, here)
    assert text.startswith(f"{here}:1: mcpServers.crm.credentials_file: ") and "none.json: cannot be read" in text


def test_problems_of_several_files_are_told_in_the_order_in_which_the_configuration_names_them(tmp_path: Path) -> None:
    here = tmp_path / "mcp.json"
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text('{"x":\n\n\n1, "y": {"header": 1}}', encoding="utf-8")
    servers = [f'"{name}": {{"url": "https://h/mcp",\n"credentials_file": "{name}.json", "sessions": 1}}' for name in "ba"]
    with pytest.raises(ConfigError) as caught:
        config.parse(f'{{"mcpServers": {{{", ".join(servers)}}}}}', str(here), {})
    places = [line.removeprefix(f"{tmp_path}/").partition(" ")[0] for line in str(caught.value).splitlines()]
    assert list(dict.fromkeys(places)) == ["mcp.json:2:", "b.json:1:", "b.json:4:", "mcp.json:3:", "a.json:1:", "a.json:4:"]


def test_oauth_is_read() -> None:
    exchange = {
        "grant": "token_exchange",
        "audience": "crm",
        "resource": "",
        "auth_method": "client_secret_post",
        "scope": "a b",
    }
    assert server({"oauth": OAUTH | exchange}).oauth == OAuthConfig(
        grant="token_exchange",
        token_url="https://idp.example/token",
        client_id="gw",
        client_secret=PLANTED,
        scope="a b",
        resource="",
        audience="crm",
        auth_method="client_secret_post",
    )


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/t", "http://localhost/t", "http://[::1]:9/t"])
def test_a_token_url_on_loopback_may_be_http(url: str) -> None:
    assert server({"oauth": OAUTH | {"token_url": url}}).oauth is not None


def test_http_to_another_machine_is_allowed_where_somebody_says_so() -> None:
    assert server({"oauth": OAUTH | {"token_url": "http://idp.example/t", "allow_http": True}}).oauth is not None


@pytest.mark.parametrize(
    "theirs", [{"clientId": "x", "callbackPort": 8080}, {"enabled": True, "scopes": ["a"]}, {}, False, "on"]
)
def test_the_oauth_of_other_programs_is_passed_over(theirs: object) -> None:
    assert server({"oauth": theirs}).oauth is None


def test_certificates_are_named_beside_the_file_and_read_for_a_try(tmp_path: Path, here: str) -> None:
    authority = Authority()
    authority.write_own(tmp_path)
    cert, key = authority.write(tmp_path, "gateway", PLANTED)
    written = {"ca": "ca.pem", "cert": "gateway.pem", "key": "gateway.key", "key_password": "${SECRET}"}
    wanted = TlsConfig(ca=str(tmp_path / "ca.pem"), cert=cert, key=key, key_password=PLANTED)
    assert server({"tls": written}, here).tls == wanted
    found = server({"oauth": OAUTH | {"tls": written}}, here).oauth
    assert found is not None and found.tls == wanted


@pytest.mark.parametrize("password", [{"key_password": "not the password"}, {}])
def test_a_key_that_does_not_open_is_refused_and_nobody_is_asked_for_its_password(
    tmp_path: Path, here: str, password: dict[str, str]
) -> None:
    Authority().write(tmp_path, "gateway", PLANTED)
    text = refusal({"tls": {"cert": "gateway.pem", "key": "gateway.key"} | password}, here)
    assert "mcpServers.crm.tls: cert: " in text and "gateway.key" in text and "not the password" not in text


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path, here: str) -> None:
    (tmp_path / "ca.pem").write_text("nothing of the kind", encoding="utf-8")
    assert "ca.pem: NO_CERTIFICATE_OR_CRL_FOUND; expected certificates" in refusal({"tls": {"ca": "ca.pem"}}, here)


def test_how_sessions_are_kept_is_read() -> None:
    found = server({"sessions": "single_use", "spares": 0, "conversation_key": "header:X-Chat", "on_session_loss": "end"})
    assert (found.spares, found.conversation_key, found.on_session_loss) == (0, "header:x-chat", "end")
    assert server({"conversation_key": "meta:example.com/Chat"}).conversation_key == "meta:example.com/Chat"
    assert (server({}).spares, server({}).conversation_key, server({}).on_session_loss) == (1, "", "renew")


def test_a_disabled_server_may_name_what_is_not_there() -> None:
    absent = {"credentials_file": "none.json", "oauth": OAUTH | {"client_secret": "${NOPE}"}, "tls": {"ca": "none.pem"}}
    assert not server(absent | {"enabled": False}).enabled


def test_p21_secrets_are_in_no_repr_and_told_to_whoever_hides_them(tmp_path: Path, here: str) -> None:
    Authority().write(tmp_path, "gateway", "pass phrase")
    (tmp_path / "keys.json").write_text('{"bob": {"headers": {"X-Key": "Bearer bobs-key"}}}', encoding="utf-8")
    found = parsed(
        {
            "credentials": {"alice": {"headers": {"X-Key": "alices-key"}}},
            "credentials_file": "keys.json",
            "oauth": OAUTH,
            "tls": {"cert": "gateway.pem", "key": "gateway.key", "key_password": "pass phrase"},
        },
        here,
    )
    secrets = {"alices-key", "Bearer bobs-key", "bobs-key", PLANTED, "pass phrase"}
    assert secrets <= set(found.secrets)
    (crm,) = found.servers
    shown = f"{found!r} {crm!r} {crm.credentials!r} {crm.oauth!r} {crm.tls!r}"
    assert not [secret for secret in secrets if secret in shown]
