"""What the hostile service can do to a request, and what each attack may make of its row."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import orjson

from tests.tools.hostile_server import Talk, answer_to, reply

Act = Callable[[Talk], object]


@dataclass(frozen=True)
class Attack:
    """An attack, and its row if both of two attempts get it.

    `doubt` counts the requests whose money is in doubt. `paid` is `usage` for what the reply says, `reserved` if that
    cannot be believed, and `no` otherwise.
    """

    act: Act
    status: str
    codes: tuple[str | None, ...]
    requests: int
    doubt: int
    paid: str
    tokens: tuple[int, int, int] = (20, 0, 5)  # prompt, cached, completion, if the reply says what is paid


ATTACKS: dict[str, Attack] = {}
ROWS = {
    "ok": ("ok", (None,), 1, 0, "usage"),
    "reserved": ("ok", (None,), 1, 0, "reserved"),
    "no_answer": ("failed", ("no_answer",), 1, 0, "usage"),
    "refused": ("refused", ("content_filter",), 1, 0, "usage"),
    "empty": ("failed", ("empty",), 1, 0, "usage"),
    "bad": ("failed", ("bad_reply",), 2, 2, "no"),
    "failed_reply": ("failed", ("failed_reply",), 2, 2, "no"),
    "large": ("failed", ("reply_too_large",), 1, 1, "no"),
    "lost": ("failed", ("connection_lost",), 2, 2, "no"),
    "slow": ("failed", ("timeout",), 2, 2, "no"),
    "cut_off": ("failed", ("timeout", "connection_lost"), 2, 2, "no"),
    "redirect": ("failed", ("redirect",), 1, 1, "no"),
    "request": ("failed", ("bad_request",), 1, 0, "no"),
    "gateway": ("failed", ("bad_gateway",), 2, 2, "no"),
    "server": ("failed", ("server_error",), 2, 0, "no"),
    "again": ("ok", (None,), 2, 0, "usage"),
}


def add(row: str, name: str, act: Act, tokens: tuple[int, int, int] = (20, 0, 5)) -> None:
    status, codes, requests, doubt, paid = ROWS[row]
    assert name not in ATTACKS, name
    ATTACKS[name] = Attack(act, status, codes, requests, doubt, paid, tokens)


def attack(row: str) -> Callable[[Act], Act]:
    """Add a function under its own name."""

    def added(act: Act) -> Act:
        add(row, act.__name__, act)
        return act

    return added


def sends(row: str, **attacks: Callable[[Talk], bytes]) -> None:
    """Add attacks that send these bytes and close."""
    for name, made in attacks.items():
        add(row, name, lambda talk, made=made: talk.send(made(talk)))  # type: ignore[misc]


CHUNKED = b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
THREE = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"


@attack("ok")
def good(talk: Talk) -> None:
    talk.keep_alive = True
    talk.send(reply(talk.good(), keep=True))


# --- slow, or without an end --------------------------------------------------------------------------------------

add("slow", "silent", lambda talk: talk.hold())
add("slow", "drip_head", lambda talk: talk.drip(OK + b"x-slow: " + b"y" * 4_000))
add("slow", "drip_body", lambda talk: talk.drip(reply(talk.good() + b" " * 100_000)[:60_000]))
add("slow", "drip_chunks", lambda talk: talk.send(CHUNKED).drip(b"1\r\n \r\n" * 5_000))
add("slow", "huge_length", lambda talk: talk.send(reply(talk.good(), length=10**15)).hold())
add("slow", "head_and_silence", lambda talk: talk.send(OK + b"content-length: 5\r\n\r\n").hold())
add("large", "endless_body", lambda talk: talk.send(CHUNKED).flood(b"10000\r\n" + b" " * 65_536 + b"\r\n"))
add("large", "endless_tiny_chunks", lambda talk: talk.send(CHUNKED).flood(b"2\r\n[[\r\n"))
add("large", "endless_without_length", lambda talk: talk.send(b"HTTP/1.0 200 OK\r\n\r\n").flood(b"["))
add("large", "huge_length_filled", lambda talk: talk.send(reply(b"", length=10**15)).flood(b"{"))
add("large", "hundred_megabytes", lambda talk: talk.send(reply(b'{"x":"' + b"x" * 100_000_000 + b'"}')))
add("cut_off", "endless_headers", lambda talk: talk.send(OK).flood(b"x-more: yes\r\n"))
add("cut_off", "endless_header", lambda talk: talk.send(OK + b"x: ").flood(b"y"))
add("cut_off", "endless_header_name", lambda talk: talk.send(OK).flood(b"y"))
add("cut_off", "endless_status_line", lambda talk: talk.send(b"HTTP/1.1 200 ").flood(b"O"))
add("large", "endless_extension", lambda talk: talk.send(CHUNKED + b"5;a=").flood(b"b"))
add("cut_off", "endless_trailers", lambda talk: talk.send(CHUNKED + b"0\r\n").flood(b"x-more: yes\r\n"))
add("large", "endless_hints", lambda talk: talk.flood(THREE))
add("large", "endless_blank_lines", lambda talk: talk.flood(b"\r\n"))
add(
    "gateway",
    "endless_error",
    lambda talk: talk.send(CHUNKED.replace(b"200 OK", b"500 No")).flood(b"1\r\n \r\n"),
)

# --- broken HTTP --------------------------------------------------------------------------------------------------

sends(
    "lost",
    negative_length=lambda _: OK + b"content-length: -5\r\n\r\nhello",
    absurd_length=lambda _: OK + b"content-length: " + b"9" * 50 + b"\r\n\r\n{}",
    two_lengths=lambda talk: OK + b"content-length: 5\r\n" + reply(talk.good())[len(OK) :],
    no_number_length=lambda _: OK + b"content-length: five\r\n\r\nhello",
    bad_chunk_size=lambda _: CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    overflowing_chunk_size=lambda _: CHUNKED + b"f" * 40 + b"\r\nhello\r\n0\r\n\r\n",
    tls_hello=lambda _: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 512,
    http2=lambda _: b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18,
    http2_preface=lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ssh=lambda _: b"SSH-2.0-OpenSSH_9.2p1\r\n",
    nul_bytes=lambda _: b"\x00" * 4_096,
    status_of_words=lambda _: b"HTTP/1.1 fine OK\r\n\r\n",
    header_with_nul=lambda _: OK + b"x: a\x00b\r\ncontent-length: 0\r\n\r\n",
    nothing=lambda _: b"",
    cut_in_head=lambda _: OK + b"content-le",
    cut_after_head=lambda _: OK + b"content-length: 500\r\n\r\n",
    cut_in_body=lambda talk: reply(talk.good())[:-20],
    cut_in_chunk=lambda _: CHUNKED + b'1f\r\n{"choices"',
    cut_before_last_chunk=lambda talk: CHUNKED + b"%x\r\n%b\r\n" % (len(talk.good()), talk.good()),
)


@attack("lost")
def reset(talk: Talk) -> None:
    talk.reset()


@attack("lost")
def reset_in_body(talk: Talk) -> None:
    talk.send(reply(talk.good())[:-20])
    talk.hold(0.05)
    talk.reset()


add("lost", "unread_and_closed", lambda _: None)
add("lost", "unread_and_reset", Talk.reset)

# --- replies that are not answers ---------------------------------------------------------------------------------


def _packed(talk: Talk) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(talk.good() + b" " * (64 << 20)) + packer.flush()


sends(
    "bad",
    switching=lambda _: (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x00"
    ),
    no_content=lambda _: b"HTTP/1.1 204 No Content\r\n\r\n",
    empty=lambda _: reply(b""),
    html=lambda _: reply(b"<html><h1>Welcome</h1></html>", b"content-type: text/html"),
    truncated_json=lambda talk: reply(talk.good()[:-10]),
    invalid_utf8=lambda talk: reply(talk.good().replace(b"answer", b"\xff\xfe\xfa")),
    nested=lambda _: reply(b"[" * 200_000),
    nested_objects=lambda _: reply(b'{"choices":' * 50_000),
    json_null=lambda _: reply(b"null"),
    json_list=lambda _: reply(b"[]"),
    json_text=lambda _: reply(b'"choices"'),
    json_number=lambda _: reply(b"1" * 100_000),
    choices_of_another_kind=lambda talk: reply(talk.good(choices={"0": {}})),
    two_documents=lambda talk: reply(talk.good() + talk.good()),
    cut_without_length=lambda talk: b"HTTP/1.0 200 OK\r\n\r\n" + talk.good()[:-9],
    gzip_bomb=lambda talk: reply(_packed(talk), b"content-encoding: gzip"),
    deflate_bomb=lambda talk: reply(zlib.compress(talk.good() + b" " * (64 << 20)), b"content-encoding: deflate"),
    brotli=lambda talk: reply(_packed(talk), b"content-encoding: br"),
    zstandard=lambda talk: reply(_packed(talk), b"content-encoding: zstd"),
    twice_packed=lambda talk: reply(_packed(talk), b"content-encoding: gzip, gzip"),
)

# --- strange answers ----------------------------------------------------------------------------------------------

sends(
    "ok",
    partial_content=lambda talk: reply(talk.good(), status=b"206 Partial Content"),
    event_stream=lambda talk: reply(b"data: " + talk.good() + b"\n\ndata: [DONE]\n\n"),
    byte_order_mark=lambda talk: reply(b"\xef\xbb\xbf" + talk.good()),
    utf16=lambda talk: reply(talk.good().decode().encode("utf-16")),
    no_type=lambda talk: reply(talk.good(), b"content-type: "),
    picture=lambda talk: reply(talk.good(), b"content-type: image/png; charset=utf-7"),
    other_model=lambda talk: reply(talk.good(model="\x1b[31mhouse-of-cards" + "x" * 5_000)),
    http10=lambda talk: b"HTTP/1.0 200 OK\r\n\r\n" + talk.good(),
    three_hints=lambda talk: THREE * 3 + reply(talk.good()),
    one_byte_chunks=lambda talk: CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in talk.good()) + b"0\r\n\r\n",
    strange_dates=lambda talk: reply(talk.good(), b"date: yesterday", b"expires: -1", b"age: 1e999"),
    strange_limits=lambda talk: reply(
        talk.good(),
        b"x-ratelimit-limit-requests: -5",
        b"x-ratelimit-remaining-requests: NaN",
        b"x-ratelimit-limit-tokens: " + b"9" * 4_000,
        b"x-ratelimit-remaining-tokens: -" + b"9" * 4_000,
        b"x-ratelimit-reset-tokens: 1e309s",
    ),
    cookies=lambda talk: reply(
        talk.good(), b"set-cookie: a=b; path=/", b'set-cookie: a b"=;; ;', b"set-cookie: " + b"c" * 4_000
    ),
    location_in_200=lambda talk: reply(talk.good(), b"location: http://user:secret@127.0.0.1:9/"),
    unknown_members=lambda talk: reply(talk.good(choices=[talk.document()["choices"][0], "x"], extra=[[[]]] * 1_000)),  # type: ignore[index]
)


def usage(**counts: object) -> Callable[[Talk], bytes]:
    known = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    return lambda talk: reply(talk.good(usage={**known, **counts}))


def literal(text: bytes) -> Callable[[Talk], bytes]:
    """Make an answer whose completion tokens are a text that JSON writers do not write."""
    return lambda talk: reply(talk.good().replace(b'"completion_tokens":5', b'"completion_tokens":' + text))


sends(
    "reserved",
    usage_nan=literal(b"NaN"),
    usage_infinity=literal(b"1e309"),
    usage_minus_infinity=literal(b"-Infinity"),
    usage_of_hundred_digits=literal(b"9" * 100),
    usage_negative=usage(completion_tokens=-5),
    usage_true=usage(completion_tokens=True),
    usage_text=usage(completion_tokens="5"),
    usage_huge=usage(completion_tokens=10**18),
    usage_zero=usage(completion_tokens=0, total_tokens=20),
    usage_null=lambda talk: reply(talk.good(usage=None)),
    usage_list=lambda talk: reply(talk.good(usage=[20, 5])),
    usage_empty=lambda talk: reply(talk.good(usage={})),
    usage_details_negative=usage(prompt_tokens_details={"cached_tokens": -1}),
    usage_twice=lambda talk: reply(talk.good()[:-1] + b',"usage":{"prompt_tokens":0,"completion_tokens":0}}'),
)


# Usage that does not add up is booked at the larger figure that it can mean.
for name, counts, tokens in (
    ("usage_fraction", {"completion_tokens": 5.5}, (20, 0, 6)),
    ("usage_of_more_in_total", {"total_tokens": 10**6}, (20, 0, 999_980)),
    ("usage_of_less_in_total", {"total_tokens": 24}, (20, 0, 5)),
    ("usage_cached_beyond", {"prompt_tokens_details": {"cached_tokens": 21}}, (41, 21, 5)),
    ("usage_reasoning_beyond", {"completion_tokens_details": {"reasoning_tokens": 6}}, (20, 0, 11)),
):
    made = usage(**counts)
    add("ok", name, lambda talk, made=made: talk.send(made(talk)), tokens)  # type: ignore[misc]


def message(**changes: object) -> Callable[[Talk], bytes]:
    return lambda talk: reply(talk.good(choices=[{"message": {"content": None, **changes}, "finish_reason": "stop"}]))


sends(
    "no_answer",
    empty_choices=lambda talk: reply(talk.good(choices=[])),
    choices_of_null=lambda talk: reply(talk.good(choices=[None])),
    null_content=message(),
    number_as_content=message(content=5),
    parts_without_text=message(content=[{"type": "image"}, 5, None]),
)
sends(
    "ok", tool_calls=message(tool_calls=[{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}])
)
sends("ok", lone_surrogate=lambda talk: reply(talk.good().replace(b"answer", b"\\ud800 answer")))
sends("ok", nul_in_text=lambda talk: reply(talk.good().replace(b"answer", b"\\u0000\\u001b[2J answer")))
sends(
    "refused",
    content_filter=lambda talk: reply(talk.good(choices=[{"message": {}, "finish_reason": "content_filter"}])),
)

# --- refusals -----------------------------------------------------------------------------------------------------

sends(
    "redirect",
    to_another_host=lambda _: reply(b"", b"location: http://localhost:9/v1", status=b"307 Temporary Redirect"),
    to_itself=lambda _: reply(b"", b"location: /v1/chat/completions", status=b"308 Permanent Redirect"),
    to_nowhere=lambda _: reply(b"", status=b"302 Found"),
    to_a_file=lambda _: reply(b"", b"location: file:///etc/passwd", status=b"301 Moved Permanently"),
    with_credentials=lambda _: reply(b"", b"location: http://u:p@127.0.0.1:9/", status=b"303 See Other"),
)


def echo(talk: Talk) -> bytes:
    received = (talk.head + talk.body).decode("latin-1")
    error = {"code": received[:300], "type": received[:300], "param": received, "message": received}
    return reply(
        orjson.dumps({"error": error}), b"x-request-id: " + talk.body[:100], status=b"400 Bad " + talk.body[:100]
    )


sends(
    "request",
    echo_of_everything=echo,
    escapes=lambda _: reply(b'{"error":{"message":"\\u001b[2J","code":"\\u001b]0;x\\u0007"}}', status=b"400 \x1b[2J"),
    error_of_text=lambda _: reply(b"\x1b[31mno\x1b[0m", status=b"422 No"),
    error_of_null=lambda _: reply(b'{"error":null}', status=b"400 No"),
    error_nested=lambda _: reply(b'{"error":' * 7_000, status=b"400 No"),
)
sends("gateway", status_599=lambda _: reply(b"", status=b"599 No"))
sends("failed_reply", json_error=lambda _: reply(b'{"error":{"message":"overloaded"}}'))
sends("server", json_502=lambda _: reply(b'{"error":{"message":"no provider","code":502}}'))
sends("empty", blank=lambda talk: reply(talk.good(choices=[{"message": {"content": " "}, "finish_reason": "stop"}])))
sends("bad", status_999=lambda _: reply(b"", status=b"999 No"))
sends(
    "server",
    error_body=lambda _: reply(b'{"error":{"message":"down","type":"server_error"}}', status=b"500 No"),
    overloaded=lambda _: reply(b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}', status=b"529 No"),
)


def busy_once(retry_after: bytes, talk: Talk) -> None:
    talk.send(reply(talk.good()) if talk.again else reply(b"", b"retry-after: " + retry_after, status=b"503 Busy"))


for _name, _value in {
    "negative": b"-5",
    "past": b"Wed, 21 Oct 2015 07:28:00 GMT",
    "zero": b"0",
    "tiny": b"1e-300",
}.items():
    add("again", f"retry_after_{_name}", partial(busy_once, _value))

# --- replies without a request ------------------------------------------------------------------------------------


def forged(talk: Talk) -> bytes:
    """Return a whole reply that answers no request."""
    return reply(talk.good().replace(answer_to(talk.text).encode(), b"FORGED"), keep=True)


def forging(*parts: Callable[[Talk], bytes]) -> Act:
    """Send one part after another on a connection that stays open."""

    def act(talk: Talk) -> None:
        talk.keep_alive = True
        for part in parts:
            talk.send(part(talk))

    return act


def replied(talk: Talk) -> bytes:
    return reply(talk.good(), keep=True)


# Each is sent at once with its reply. When one comes later, the machine decides whether the next request leaves before:
# tests/tasks/llm/test_connections.py holds that moment still.
FORGERIES: dict[str, Act] = {
    "twice": forging(lambda talk: replied(talk) + forged(talk)),
    "many_times": forging(lambda talk: replied(talk) + forged(talk) * 200),
    "body_beyond_its_length": forging(
        lambda talk: reply(talk.good() + forged(talk), length=len(talk.good()), keep=True)
    ),
    "more_after_chunks": forging(
        lambda talk: (
            CHUNKED.replace(b"connection: close\r\n", b"")
            + b"%x\r\n%b\r\n0\r\n\r\n" % (len(talk.good()), talk.good())
            + forged(talk)
        )
    ),
}
for _name, _act in FORGERIES.items():
    add("ok", _name, _act)
add(
    "redirect", "body_of_304", forging(lambda talk: b"HTTP/1.1 304 Same\r\ncontent-length: 9000\r\n\r\n" + forged(talk))
)


@attack("bad")
def unread_and_answered(talk: Talk) -> None:
    talk.send(reply(b'{"choices":'))
    talk.hold()
