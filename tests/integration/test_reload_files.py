"""Files that the configuration names are followed as it is itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcpgateway import logs, runtime
from mcpgateway.config import Config
from mcpgateway.errors import ConfigError
from mcpgateway.runtime import Sweep
from mcpgateway.services.reloading import LOOK_SECONDS, ConfigFile
from tests.clients.wire import Wire
from tests.fakes.callers import bearer, letting_in
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import serving
from tests.fakes.until import until
from tests.servers.raw_stub import Stub

ISSUER = {"issuer": "https://id.example", "audience": "https://mcp.example", "key_file": "issuer.pem"}


def keys(value: str, name: str = "alice") -> str:
    return json.dumps({name: {"headers": {"X-Key": value}}})


class Followed:
    """A configuration in a folder of its own, and what was put into force of it."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        self.folder = folder
        self.clock = clock
        self.sweep = Sweep(clock, tick_seconds=0.01)
        self.loaded: asyncio.Queue[Config] = asyncio.Queue()
        self.refuses: ConfigError | None = None
        self.write("issuer.pem", "first")
        self.write("keys.json", keys("first"))
        self.write("mcp.json", self.document())
        self.file = ConfigFile(str(folder / "mcp.json"), self.apply, self.sweep)

    async def apply(self, config: Config) -> None:
        if self.refuses is not None:
            raise self.refuses
        await self.loaded.put(config)

    def document(self, **server: Any) -> str:
        entry = {"url": "http://crm.test/mcp", "credentials_file": "keys.json"} | server
        gateway = {"public_url": "https://mcp.example", "auth": {"jwt": ISSUER}}
        return json.dumps({"mcpServers": {"crm": entry}, "gateway": gateway})

    def write(self, name: str, text: str) -> None:
        """Another file takes the name's place, so that it counts as changed however fast the test is."""
        new = self.folder / f"{name}.new"
        new.write_text(text)
        new.replace(self.folder / name)

    async def next(self) -> Config:
        """Look twice, and wait for what is loaded."""
        self.file.expire()
        self.file.expire()
        async with asyncio.timeout(10):
            return await self.loaded.get()

    async def refused(self) -> None:
        """Look twice, and wait until what was read has been refused."""
        self.file.expire()
        self.file.expire()
        await until(lambda: "reload the configuration" not in runtime.running_tasks())
        assert self.loaded.empty()


@pytest.fixture
async def followed(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Followed]:
    made = Followed(tmp_path, clock)
    made.file.follow()
    await until(lambda: "2 that it names" in repr(made.file))
    yield made
    made.sweep.close()


def key_of(config: Config) -> str:
    return config.servers[0].credentials[0].headers[0][1]


async def test_a_changed_file_of_credentials_is_taken_up(followed: Followed) -> None:
    followed.write("keys.json", keys("second"))
    assert key_of(await followed.next()) == "second"
    followed.file.expire()
    followed.file.expire()
    assert followed.loaded.empty(), "it is loaded once"


async def test_a_changed_file_of_keys_is_taken_up(followed: Followed) -> None:
    followed.write("issuer.pem", "second")
    auth = (await followed.next()).gateway.auth
    assert auth is not None and auth.jwt[0].keys == b"second"


async def test_the_clock_brings_it_about(followed: Followed) -> None:
    followed.write("keys.json", keys("second"))
    async with asyncio.timeout(10):
        while followed.loaded.empty():
            followed.clock.advance(LOOK_SECONDS)
            followed.sweep.expire_due()
            await asyncio.sleep(0)
        assert key_of(await followed.loaded.get()) == "second"


@pytest.mark.parametrize("broken", ["no JSON", '{"alice": 5}', None])
async def test_a_broken_file_of_credentials_is_refused_until_it_is_mended(
    followed: Followed, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    if broken is None:
        (followed.folder / "keys.json").unlink()
    else:
        followed.write("keys.json", broken)
    await followed.refused()
    assert caplog.text.count("the old one stays in force") == 1 and "crm.credentials_file" in caplog.text
    await followed.refused()
    assert caplog.text.count("the old one stays in force") == 1, "it is said once"
    followed.write("keys.json", keys("mended"))
    assert key_of(await followed.next()) == "mended"


async def test_a_file_that_a_refused_configuration_named_is_followed_too(followed: Followed) -> None:
    followed.write("mcp.json", followed.document(credentials_file="other.json"))
    await followed.refused()
    followed.write("other.json", keys("other"))
    assert key_of(await followed.next()) == "other"


async def test_what_cannot_be_put_into_force_is_refused_like_what_cannot_be_read(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    followed.refuses = ConfigError("holds no key that can be used")
    followed.write("issuer.pem", "useless")
    await followed.refused()
    assert "the old one stays in force:\nholds no key that can be used" in caplog.text and "Traceback" not in caplog.text


async def test_a_file_that_is_not_named_any_more_is_not_followed(followed: Followed) -> None:
    followed.write("mcp.json", '{"mcpServers": {}}')
    assert (await followed.next()).servers == ()
    followed.write("keys.json", "no JSON")
    await followed.refused()


async def test_p21_secrets_that_came_with_a_reload_are_taken_out_of_logs_too(followed: Followed) -> None:
    followed.write("keys.json", keys("planted-after-the-start"))
    await followed.next()
    assert "planted" not in logs.redacted("it said planted-after-the-start")


async def test_i10_a_rotated_file_of_credentials_reaches_the_upstream_with_the_next_call(tmp_path: Path) -> None:
    stub, path = Stub(), tmp_path / "mcp.json"
    await stub.start()
    crm = {"url": stub.url, "credentials_file": str(tmp_path / "keys.json")}
    document = {"mcpServers": {"crm": crm}, "gateway": letting_in("alice")}
    path.write_text(json.dumps(document))
    (tmp_path / "keys.json").write_text(keys("old"))
    async with serving(document) as gateway, asyncio.timeout(20):
        file = ConfigFile(str(path), gateway.gateway.apply, gateway.gateway.sweep)
        await file.find_named()
        async with Wire(gateway.server("crm"), bearer("alice")) as client:
            await client.initialize()
            assert '\\"x-key\\": \\"old\\"' in json.dumps(await client.call("whoami"))
            (tmp_path / "keys.json").write_text(keys("rotated"))
            file.expire()
            file.expire()
            await until(lambda: gateway.gateway.config.servers[0].credentials[0].headers[0][1] == "rotated")
            assert '\\"x-key\\": \\"rotated\\"' in json.dumps(await client.call("whoami"))
    await stub.aclose()
