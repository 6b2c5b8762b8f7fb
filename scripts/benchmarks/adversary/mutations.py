"""Valid requests, and mutations of them at each level: HTTP, header, body, image.

Everything follows from the random generator, so that a seed and a number name one request.
"""

from __future__ import annotations

import base64
import io
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from adversary import other_bombs, png_bombs

_BOUNDARY = "----boundary"
_MAGIC = 0xCED7230A  # of a RecordIO frame


@dataclass(frozen=True)
class Message:
    """A request in parts."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    is_chunked: bool = False

    def to_bytes(self) -> bytes:
        """Return it as HTTP/1.1, with the length of its body or in chunks."""
        fields = list(self.headers)
        body = self.body
        if self.is_chunked:
            fields.append(("Transfer-Encoding", "chunked"))
            pieces = [body[at : at + 700] for at in range(0, len(body), 700)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            body += b"0\r\n\r\n"
        elif body or self.method != "GET":
            fields.append(("Content-Length", str(len(body))))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        head = f"{self.method} {self.target} HTTP/1.1\r\n{lines}\r\n"
        return head.encode("utf-8", "surrogateescape") + body


def valid_messages(photo: bytes) -> list[Message]:
    """Return requests of every kind; the predictions among them are answered with 200."""
    small = [png_bombs.picture(24, 20), other_bombs.webp(24, 20), other_bombs.gif(
        24, 20, data=other_bombs.growing_codes(480)
    ), other_bombs.bmp(24, 20, 8, bytes(24 * 20)), small_jpeg(photo)]  # fmt: skip
    text = [base64.b64encode(image).decode() for image in small]
    form = b"".join(
        f"--{_BOUNDARY}\r\n".encode()
        + f'Content-Disposition: form-data; name="f"; filename="{n}"\r\n\r\n'.encode()
        + image + b"\r\n" for n, image in enumerate(small)
    ) + f"--{_BOUNDARY}--\r\n".encode()  # fmt: skip
    bodies = [(image, "application/x-image") for image in small]
    bodies += [
        (json.dumps(text[0]).encode(), "application/json"),
        (json.dumps({"instances": [{"b64": one} for one in text]}).encode(), "application/json"),
        (json.dumps({"inputs": text[4]}).encode(), "application/json"),
        ("\n".join(json.dumps({"image": one}) for one in text).encode(), "application/jsonlines"),
        (form, f"multipart/form-data; boundary={_BOUNDARY}"),
        (b"".join(map(record, small)), "application/x-recordio"),
        (small[4], "application/octet-stream"),
    ]
    fixed = (("Host", "127.0.0.1"), ("Connection", "close"))
    messages = [
        Message("POST", "/invocations", (*fixed, ("Content-Type", kind)), body)
        for body, kind in bodies
    ]
    accepts = ["application/json;verbose;top_k=2", "text/csv;verbose", "application/jsonlines"]
    messages += [replace(messages[4], headers=(*messages[4].headers, ("Accept", kind)))
                 for kind in accepts]  # fmt: skip
    messages += [replace(message, is_chunked=True) for message in messages[4:9]]
    paths = ("/ping", "/execution-parameters", "/models?limit=2", "/nothing")
    messages += [Message("GET", path, fixed, b"") for path in paths]
    return messages


def mutate(messages: list[Message], random_: random.Random) -> bytes:
    """Return the bytes of a mutated request."""
    message = random_.choice(messages)
    for _ in range(random_.choice((1, 1, 2, 4))):
        message = random_.choice(_LEVELS)(message, random_)
    data = message.to_bytes()
    if random_.random() < 0.25:
        head, _, body = data.partition(b"\r\n\r\n")
        data = _bytes(head, random_) + b"\r\n\r\n" + body
    if random_.random() < 0.1:
        data = _bytes(data, random_)
    return data


def _body(message: Message, random_: random.Random) -> Message:
    return replace(message, body=_bytes(message.body, random_))


def _head_of_image(message: Message, random_: random.Random) -> Message:
    """Change numbers near the start, where formats keep sizes and counts."""
    data = bytearray(message.body)
    for _ in range(random_.randint(1, 6)):
        if len(data) > 12:
            at = random_.randrange(4, min(len(data) - 4, 200))
            data[at : at + 4] = random_.choice(_NUMBERS)[: random_.randint(1, 4)]
    return replace(message, body=bytes(data))


def _header(message: Message, random_: random.Random) -> Message:
    headers = list(message.headers)
    action = random_.randrange(4)
    at = random_.randrange(len(headers))
    name, value = headers[at]
    if action == 0:
        headers[at] = (name, random_.choice(_VALUES))
    elif action == 1:
        headers.append((random_.choice(_NAMES), random_.choice(_VALUES)))
    elif action == 2:
        headers.append((name, value))
    else:
        headers[at] = (name, value + random_.choice(_VALUES))
    return replace(message, headers=tuple(headers))


def _line(message: Message, random_: random.Random) -> Message:
    if random_.random() < 0.3:
        return replace(message, method=random_.choice(_METHODS))
    return replace(message, target=random_.choice(_TARGETS))


def _json(message: Message, random_: random.Random) -> Message:
    """Replace a value inside a JSON body, or wrap it."""
    try:
        value = json.loads(message.body)
    except (ValueError, RecursionError):
        value = base64.b64encode(message.body).decode()
    changed = _in_json(value, random_, 0)
    body = json.dumps(changed).encode()
    if random_.random() < 0.1:
        deep = random_.choice((50, 1000, 100_000))
        body = b"[" * deep + body + b"]" * random_.choice((deep, 0))
    headers = tuple(h for h in message.headers if h[0] != "Content-Type")
    return replace(message, headers=(*headers, ("Content-Type", "application/json")), body=body)


def _in_json(value: object, random_: random.Random, depth: int) -> object:
    if depth < 4 and random_.random() < 0.6:
        if isinstance(value, dict) and value:
            key = random_.choice(list(value))
            return {**value, key: _in_json(value[key], random_, depth + 1)}
        if isinstance(value, list) and value:
            at = random_.randrange(len(value))
            return [*value[:at], _in_json(value[at], random_, depth + 1), *value[at + 1 :]]
    if isinstance(value, str) and random_.random() < 0.5:
        cut = random_.randrange(len(value) + 1)
        return (
            value[:cut]
            + random_.choice(("", "=", "-_", "\ud800", "%", "\0", "data:,"))
            + value[cut:]
        )
    return random_.choice(
        (None, True, 0, -1.5, 1e308, "", "x", [], {}, [value], {"b64": value}, {"image": value},
         [value] * 30, {"instances": value}, "http://127.0.0.1/", "s3://a/b")
    )  # fmt: skip


def _form(message: Message, random_: random.Random) -> Message:
    """Change the lines that divide a form, or frames of records."""
    body = message.body
    marks = [_BOUNDARY.encode(), b"\r\n", struct.pack("<I", _MAGIC), b"filename", b";"]
    mark = random_.choice([m for m in marks if m in body] or [body[:4]])
    with_ = random_.choice((b"", mark * 2, mark[::-1], b"\n", b"\xff" * 8, mark + b"\0"))
    return replace(message, body=body.replace(mark, with_, random_.randint(1, 4)))


def _coding(message: Message, random_: random.Random) -> Message:
    return replace(message, is_chunked=random_.random() < 0.7)


def _swap(message: Message, random_: random.Random) -> Message:
    """Claim another type than the body has."""
    kind = random_.choice(_TYPES)
    headers = tuple(h for h in message.headers if h[0] != "Content-Type")
    return replace(message, headers=(*headers, ("Content-Type", kind)))


def _bytes(data: bytes, random_: random.Random) -> bytes:
    """Flip, cut, repeat, insert or overwrite bytes."""
    if not data:
        return random_.randbytes(random_.randint(0, 40))
    changed = bytearray(data)
    action = random_.randrange(6)
    at = random_.randrange(len(changed))
    if action == 0:
        for _ in range(random_.randint(1, 20)):
            changed[random_.randrange(len(changed))] ^= 1 << random_.randrange(8)
    elif action == 1:
        del changed[at:]
    elif action == 2:
        changed[at:at] = changed[at : at + random_.randint(1, 200)] * random_.randint(1, 50)
    elif action == 3:
        changed[at:at] = random_.randbytes(random_.randint(1, 50))
    elif action == 4:
        changed[at : at + 4] = random_.choice(_NUMBERS)
    else:
        del changed[at : at + random_.randint(1, 50)]
    return bytes(changed)


def small_jpeg(photo: bytes) -> bytes:
    """Return a photograph as a JPEG of 48 × 40 pixels."""
    from PIL import Image

    with Image.open(io.BytesIO(photo)) as image:
        made = io.BytesIO()
        image.resize((48, 40)).save(made, "JPEG")
    return made.getvalue()


def record(image: bytes) -> bytes:
    """Return a record of im2rec: frame, header (flag, label, two ids), image, padding."""
    body = struct.pack("<IfQQ", 0, 1.0, 1, 0) + image
    return struct.pack("<II", _MAGIC, len(body)) + body + b"\0" * (-len(body) % 4)


Level = Callable[[Message, random.Random], Message]
_LEVELS: tuple[Level, ...] = (
    _body, _body, _head_of_image, _head_of_image, _header, _line, _json, _form, _coding, _swap,
)  # fmt: skip
_NUMBERS = (
    b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\xff\xff",
    b"\x01\0\0\0", b"\0\0\0\x01", b"\xff\xd9\xff\xd8",
)  # fmt: skip
_METHODS = (
    "GET",
    "HEAD",
    "PUT",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "post",
    "P OST",
    "",
    "A" * 5000,
)
_TARGETS = (
    "/", "*", "/invocations?" + "a" * 5000, "/invocations/../ping", "//", "/%00", "/\x1b[0m", "/é",
    "http://127.0.0.1/invocations", "/models/x/invoke", "/models?limit=١", "/ping#x", "ping",
    "/invocations;x", "/static/../../etc/passwd", "/execution-parameters?x=%ff",
)  # fmt: skip
_NAMES = (
    "Content-Length", "Transfer-Encoding", "Expect", "Accept", "Content-Encoding", "Host",
    "Upgrade", "Connection", "X-Amzn-SageMaker-Inference-Id", "Range", "Keep-Alive", "Trailer",
    "X-Amzn-SageMaker-Custom-Attributes", "Cookie", "X" * 300, "Content_Type", "", "a b", "É",
)  # fmt: skip
_TYPES = (
    "application/json", "application/jsonlines", "application/x-recordio", "multipart/form-data",
    "multipart/form-data; boundary=", "image/*", "text/csv", "application/x-npy", "text/plain",
    "application/x-www-form-urlencoded", "application/json; charset=utf-7", "*/*", "/", "image/png",
)  # fmt: skip
_VALUES = (
    *_TYPES, "", " ", "0", "-1", "+5", "5, 5", "99999999999999999999", "chunked", "gzip, chunked",
    "100-continue", "identity", "gzip", "close", "keep-alive, upgrade", "\x00", "\r\n x", "é",
    "a" * 9000, "application/json;q=2", "application/json;top_k=0;verbose", "*/*;q=nan", "\udcff",
)  # fmt: skip
