"""The codec of server-sent events: whatever way a stream is cut, the same events come out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpgateway.protocol import sse
from mcpgateway.protocol.sse import Decoder, EventTooLarge, encode

MIB = 1024 * 1024


def decode(stream: bytes, cuts: list[int] | None = None) -> list[tuple[bytes, bytes, bytes | None, int | None]]:
    """The events of a stream that arrives cut at these places."""
    decoder = Decoder()
    places = sorted({min(cut, len(stream)) for cut in cuts or []} | {0, len(stream)})
    pieces = [stream[begin:end] for begin, end in itertools.pairwise(places)]
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return [(event.type, event.data, event.id, event.retry_ms) for event in events]


def reference(stream: bytes) -> list[tuple[bytes, bytes, bytes | None, int | None]]:
    """The same, written down plainly from the standard: the whole stream at once, line by line."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    events, fields = [], []
    for line in lines:
        if line:
            name, _, value = line.partition(b":")
            fields.append((name, value.removeprefix(b" ")))
            continue
        data = [value for name, value in fields if name == b"data"]
        kind = [value for name, value in fields if name == b"event"]
        ids = [value for name, value in fields if name == b"id" and b"\0" not in value]
        retries = [int(value) for name, value in fields if name == b"retry" and value.isdigit() and len(value) < 10]
        if data or ids or retries:
            last_id = ids[-1] if ids else None
            events.append(((kind or [b""])[-1] or b"message", b"\n".join(data), last_id, retries[-1] if retries else None))
        fields = []
    return events


LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
NAMES = st.sampled_from([b"data", b"event", b"id", b"retry", b"", b"data ", b"unknown", b"DATA", b"\xef\xbb\xbfdata"])
VALUES = st.one_of(
    st.binary(max_size=20).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b"")),
    st.sampled_from([b"10", b"9" * 20, b" two spaces", b"a:b", b"\0"]),
)
LINES = st.one_of(
    st.just(b""),
    st.tuples(NAMES, st.sampled_from([b"", b":", b": "]), VALUES).map(
        lambda parts: parts[0] + (parts[1] and parts[1] + parts[2])
    ),
)
STREAMS = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf"]), st.lists(st.tuples(LINES, LINE_ENDS).map(b"".join), max_size=15).map(b"".join)
).map(b"".join)


def ends_in_a_bare_return(stream: bytes) -> bool:
    # What follows decides whether such a line has ended; with nothing after it the event is not given yet.
    return stream.endswith(b"\r")


@given(STREAMS, st.lists(st.integers(0, 300), max_size=20))
@example(b"data: a\r\n\r\n", [8, 9, 10])
@example(b"data: a\r\rdata: b\n\n", [8])
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2, 3])
@example(b"\xef\xbb\xbf\ndata\n\n", [1])
def test_a_stream_gives_the_same_events_however_it_is_cut(stream: bytes, cuts: list[int]) -> None:
    if ends_in_a_bare_return(stream):
        stream += b": end\n"
    assert decode(stream, cuts) == reference(stream)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_no_bytes_make_the_decoder_fail_and_cuts_change_nothing(stream: bytes, cuts: list[int]) -> None:
    assert decode(stream, cuts) == decode(stream)


@given(st.lists(st.tuples(st.text(max_size=50), st.sampled_from([None, b"1", b"e-2"])), max_size=5))
def test_what_is_encoded_is_decoded(events: list[tuple[str, bytes | None]]) -> None:
    stream = b"".join(encode(text.encode(), id=id) for text, id in events)
    expected = [(text.replace("\r\n", "\n").replace("\r", "\n").encode(), id) for text, id in events]
    assert [(data, id) for _, data, id, _ in decode(stream)] == expected


@given(st.binary(max_size=100))
def test_data_cannot_end_its_own_event_and_begin_another(data: bytes) -> None:
    events = decode(encode(data))
    assert len(events) == 1
    assert events[0][0] == b"message"


def test_several_data_lines_are_one_event() -> None:
    assert decode(b"data: one\ndata\ndata:two\n\n") == [(b"message", b"one\n\ntwo", None, None)]


def test_comments_and_unknown_fields_are_not_events() -> None:
    assert decode(b": keep-alive\n\nnonsense: 1\n\n:\n\n") == []


def test_an_event_that_primes_a_stream_is_given_without_data() -> None:
    assert decode(b"id: 7\nretry: 100\ndata:\n\nid: 8\n\nretry: 5\n\n") == [
        (b"message", b"", b"7", 100),
        (b"message", b"", b"8", None),
        (b"message", b"", None, 5),
    ]


def test_an_event_that_is_not_ended_is_not_given() -> None:
    assert decode(b"data: 1\n") == []


@pytest.mark.parametrize(
    "piece",
    [b"x" * 100, b"data: " + b"x" * 100 + b"\n", b"data: " + b"x" * 100 + b"\r"],
    ids=["no line end", "lines", "returns"],
)
def test_an_event_without_end_is_refused_at_the_limit(piece: bytes) -> None:
    decoder = Decoder(max_event_bytes=10_000)
    with pytest.raises(EventTooLarge, match="10000 bytes"):
        for _ in range(200):
            decoder.feed(piece)
    assert len(decoder._buffer) <= 10_000 + len(piece)


def test_empty_lines_of_data_count_too() -> None:
    decoder = Decoder(max_event_bytes=10_000)
    with pytest.raises(EventTooLarge):
        for _ in range(200):
            decoder.feed(b"data:\n" * 100)


def test_many_events_are_not_one_large_one() -> None:
    decoder = Decoder(max_event_bytes=100)
    assert sum(len(decoder.feed(b"data: " + b"x" * 50 + b"\n\n")) for _ in range(100)) == 100


class Counting(bytearray):
    """A buffer that adds up how far it was searched."""

    searched = 0

    def find(self, sub: bytes, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        end = len(self) if end is None else end
        found = super().find(sub, start, end)
        self.searched += (found if found >= 0 else end) - start
        return found


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_a_large_event_is_searched_once_however_many_pieces_it_comes_in(line_end: bytes) -> None:
    """Counted, not timed: a decoder that begins each search anew would look at 1 MiB in 64 KiB pieces eight times over."""
    decoder = Decoder()
    decoder._buffer = buffer = Counting()
    stream = b"data: " + b"x" * MIB + line_end * 2 + b": end\n"
    events = [event for begin in range(0, len(stream), 65536) for event in decoder.feed(stream[begin : begin + 65536])]
    assert [len(event.data) for event in events] == [MIB]
    # Once for each of the two characters that can end a line.
    assert buffer.searched <= 2.1 * len(stream)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_many_small_lines_are_searched_once(line_end: bytes) -> None:
    decoder = Decoder()
    decoder._buffer = buffer = Counting()
    stream = (b"data: 1" + line_end * 2) * 10_000 + b": end\n"
    assert len(decoder.feed(stream)) == 10_000
    assert buffer.searched <= 2.1 * len(stream)


def test_the_keep_alive_is_no_event() -> None:
    assert decode(sse.KEEPALIVE) == []


RESULT = b'{"jsonrpc":"2.0","id":7,"result":{"a":1}}'
OTHER_WAY_ROUND = b'{"result":{"a":1},"jsonrpc":"2.0","id":7}'


@pytest.mark.parametrize("data", [RESULT, OTHER_WAY_ROUND, b'{"jsonrpc": "2.0", "id": 7, "result": {}}'])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_stream_that_is_one_answer_is_told_from_others(data: bytes, end: bytes) -> None:
    assert sse.lone_answer(b"data: " + data + end * 2) == data
    assert sse.lone_answer(b"event: message" + end + b"data:" + data + end * 2) == data


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"data: " + RESULT,
        b"data: " + RESULT + b"\n",
        b"id: 1\ndata: " + RESULT + b"\n\n",
        b"retry: 1\ndata: " + RESULT + b"\n\n",
        b"event: other\ndata: " + RESULT + b"\n\n",
        b"data: " + RESULT + b"\rid: 1\n\n",
        b"data: " + RESULT + b"\ndata: more\n\n",
        b": hello\n\ndata: " + RESULT + b"\n\n",
        b"data: " + RESULT + b"\n\ndata: " + RESULT + b"\n\n",
        b'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"result":1}}\n\n',
        b'data: {"jsonrpc":"2.0","id":7,"method":"ping"}\n\n',
        b'data: {"jsonrpc":"2.0","id":7,"error":{}}\n\n',
    ],
)
def test_any_other_stream_is_left_to_the_decoder(stream: bytes) -> None:
    assert sse.lone_answer(stream) is None
