"""Lines in and lines out, over real pipes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

import pytest

from mcpgateway.downstream.standard_io import CHUNK_BYTES, QUEUED_BYTES, QUEUED_LINES, Lines, LineWriter
from mcpgateway.errors import TooLarge


class Pipe:
    """A pipe of which a test holds the end that the code under test does not."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def close(self) -> None:
        for end in (self.reading, self.writing):
            self.close_end(end)

    def close_end(self, end: int) -> None:
        with contextlib.suppress(OSError):
            os.close(end)

    async def read(self, size: int = 1 << 20) -> bytes:
        return await asyncio.to_thread(os.read, self.reading, size)

    async def read_lines(self, count: int) -> list[bytes]:
        data = b""
        while data.count(b"\n") < count:
            data += await self.read()
        return data.splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


async def lines_of(pipe: Pipe, *pieces: bytes, limit: int = 100) -> list[bytes | TooLarge]:
    """What comes of these pieces, written one after the other, and then the end."""

    def write() -> None:
        for piece in pieces:
            os.write(pipe.writing, piece)
        os.close(pipe.writing)

    writing = asyncio.create_task(asyncio.to_thread(write))
    async with asyncio.timeout(5):
        lines = [line async for line in Lines(pipe.reading, limit)]
        await writing
    return lines


async def test_lines_are_put_together_and_taken_apart(pipe: Pipe) -> None:
    assert await lines_of(pipe, b'{"a":', b"1}\n{}\n\n[", b"]") == [b'{"a":1}', b"{}", b"", b"[]"]


async def test_nothing_is_no_line(pipe: Pipe) -> None:
    assert await lines_of(pipe) == []


async def test_a_line_that_is_too_long_is_an_error_and_the_next_one_is_read(pipe: Pipe) -> None:
    lines = await lines_of(pipe, b"x" * 100 + b"\n", b"x" * 101 + b"\n", b"x" * CHUNK_BYTES * 3, b"\nnext\n", b"y" * 101)
    assert [line if isinstance(line, bytes) else type(line) for line in lines] == [
        b"x" * 100,
        TooLarge,
        TooLarge,
        b"next",
        TooLarge,
    ]


async def test_each_message_is_one_line_whatever_line_ends_are_between_its_tokens(pipe: Pipe) -> None:
    out = LineWriter(pipe.writing)
    out.put(b'{\r\n"a":\n1}')
    out.put_surely(b"{}")
    out.end()
    async with asyncio.timeout(5):
        await out.ended()
        assert await pipe.read_lines(2) == [b'{  "a": 1}', b"{}"]


async def test_a_reader_who_is_behind_loses_what_may_be_lost_and_nothing_else(pipe: Pipe) -> None:
    out = LineWriter(pipe.writing)
    out.put_surely(b"x" * QUEUED_BYTES)
    for _ in range(3):
        out.put(b"lost")
    for number in range(QUEUED_LINES):
        out.put_surely(b"%d" % number)
    out.end()
    waiting = asyncio.create_task(out.room())
    async with asyncio.timeout(10):
        lines = await pipe.read_lines(QUEUED_LINES + 1)
        await waiting
        await out.ended()
    assert lines[1:] == [b"%d" % number for number in range(QUEUED_LINES)]


async def test_a_writer_whose_reader_has_gone_ends(pipe: Pipe) -> None:
    out = LineWriter(pipe.writing)
    pipe.close_end(pipe.reading)
    out.put(b"anyone?")
    async with asyncio.timeout(5):
        await out.ended()


async def test_a_writer_that_is_cut_while_its_reader_sleeps_holds_nobody_up(pipe: Pipe) -> None:
    out = LineWriter(pipe.writing)
    out.put_surely(b"x" * QUEUED_BYTES)
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await out.cut()
    pipe.close_end(pipe.reading)
