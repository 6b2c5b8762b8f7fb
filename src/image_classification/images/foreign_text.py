"""Names text that is not an image, and the cure; see `foreign`.

In: the first bytes of a text. Out: the end of a sentence, such as "an S3 URI: …". Base64 text
(RFC 4648, also with its URL-safe alphabet), data: URLs (RFC 2397), JSON, XML and HTML errors,
addresses, lists and manifests.
"""

import base64
import binascii
import re
from collections.abc import Callable
from urllib.parse import unquote, unquote_to_bytes

from image_classification.errors import LFS_CURE, LFS_POINTER

IMAGE = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<GIF>GIF8[79]a)|(?P<WEBP>RIFF.{4}WEBP)"
    rb"|(?P<BMP>BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0)|(?P<AVIF>\0\0\0.ftypavi[fs])",
    re.DOTALL,
)
"""The first bytes of the accepted formats but TIFF; the name of the group is the format."""

_SHOWN = 80
_FEWEST_BASE64 = 16  # characters: shorter ones are words
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffd]")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-]+={0,2}")
_DATA_URL = re.compile(r"data:([\w.+/\-]*)[^,]{0,200},", re.IGNORECASE)
_PYTHON_BYTES = re.compile(r"b(['\"])")
_HEX = re.compile(r"(?:0x)?((?:[0-9a-f]{2}[\s:,]{0,2}){8,})", re.IGNORECASE)
_AS_JSON = "send it as application/json"
_NOT_FETCHED = "is not fetched: send the bytes of the image"
_KEYS = r'"(?:image|image_bytes|b64|base64|content|data|body|bytes|instances|inputs|images)"\s*:'


def name_text(head: bytes) -> str | None:
    """Return what the text that begins with `head` is and what to do; None for bytes or words."""
    text = _decoded(head)
    if text is None:
        return None
    stripped = text.strip()
    if not stripped:
        return "only spaces and line breaks: the file has no content"
    return next((said for rule in _RULES if (said := rule(stripped))), None)


def _decoded(head: bytes) -> str | None:
    """Return the text in UTF-8, UTF-16 with its mark, or Latin-1, without that mark."""
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = head[: len(head) & ~1].decode("utf-16") if wide else head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        is_cut = not wide and error.start >= len(head) - 3
        text = head[: error.start].decode("utf-8-sig") if is_cut else head.decode("latin-1")
        if not is_cut and re.search(r"[\x80-\x9f]", text):
            return None
    return None if _CONTROL.search(text) else text


def from_base64(text: str) -> bytes | None:
    """Return the bytes of base64 text in any of its common spellings, or None if it is not one.

    Taken: line breaks and spaces, the URL-safe alphabet, missing padding.
    """
    compact = "".join(text.split()).rstrip("=")
    if len(compact) % 4 == 1 or not compact.isascii():
        return None
    standard = compact.replace("-", "+").replace("_", "/") + "=" * (-len(compact) % 4)
    try:
        return base64.b64decode(standard, validate=True)
    except (binascii.Error, ValueError):
        return None


def _encoded_image(text: str) -> str | None:
    """Return what the base64 text that begins with `text` holds; None if it is not base64."""
    compact = "".join(text.split())
    found = _BASE64.match(compact)
    if found is None or found.end() < min(len(compact), 64) or found.end() < _FEWEST_BASE64:
        return None
    content = from_base64(compact[: found.end() // 4 * 4]) or b""
    if image := IMAGE.match(content):
        return f"base64 text of a {image.lastgroup}"
    inner = IMAGE.match(from_base64(content[: len(content) // 4 * 4].decode("latin-1")) or b"")
    if inner:
        return f"base64 text of base64 text of a {inner.lastgroup}"
    if content.startswith(b"data:"):
        return "base64 text of a data: URL"
    is_word = found.end() < max(64, len(compact) - 2) or found[0].isalpha() or " " in text
    return None if is_word else "base64 text that is not of an accepted image"


def _base64(text: str) -> str | None:
    bare = text.removeprefix('"').removeprefix("'").lstrip()
    quoted = bare != text
    if python := _PYTHON_BYTES.match(bare):
        bare = bare[2:]
        if bare.startswith(("\\xff\\xd8", "\\x89PNG", "GIF8", "RIFF", "BM\\x")):
            return "Python's text of bytes (b'…'): send the bytes themselves"
    said = _encoded_image(bare.rstrip("\"'"))
    if said is None:
        return None
    if python:
        return f"Python's text of bytes (b'…') with {said}: decode it and send the bytes"
    if "base64 text of base64" in said:
        return f"{said}: encode it once, or send the bytes"
    if "not of" in said:
        return f"{said}: encode the image file itself, or send its bytes"
    if quoted:
        return f"a string in quotes, {said}: {_AS_JSON}, or send the bytes"
    return f"{said}: {_AS_JSON}, or decode it and send the bytes"


def _data_url(text: str) -> str | None:
    bare = unquote(text.lstrip("\"'")[:256]) if "%3A" in text[:12].upper() else text.lstrip("\"'")
    found = _DATA_URL.match(bare)
    if found is None:
        return None
    holds = _encoded_image(unquote(bare[found.end() :]).rstrip("\"'")) or found[1] or "text"
    return f"a data: URL ({holds}): {_AS_JSON}, or decode what follows its comma and send the bytes"


def _form_field(text: str) -> str | None:
    found = re.match(r"([\w.\-\[\]]{1,40})=(?=\S{8})", text)
    holds = _encoded_image(unquote(text[found.end() :])) if found else None
    if found and (image := IMAGE.match(unquote_to_bytes(text[found.end() :]))):
        return f"a form field {found[1]!r} with the escaped bytes of a {image.lastgroup}: send them"
    if found and holds:
        return f"a form field {found[1]!r} with {holds}: {_AS_JSON} instead, or send the bytes"
    if re.match(r"[\w.\-\[\]]{1,40}=[^&=\s]{0,200}(?:&[\w.\-\[\]]{1,40}=[^&=\s]{0,200})+\Z", text):
        return "form fields: send the bytes of the image, or multipart/form-data (curl --form)"
    return None


def _other_encoding(text: str) -> str | None:
    text = text.lstrip("\"'")
    found = _HEX.match(text.replace("\\x", ""))
    if found:
        content = bytes.fromhex(re.sub(r"[\s:,]|0x", "", found[1])[:128])
        if image := IMAGE.match(content):
            return f"hexadecimal text of a {image.lastgroup}: send the bytes"
    if re.match(r"%FF%D8%FF|%89PNG|%89%50", text, re.IGNORECASE):
        return "the bytes of an image with %-escapes: send the bytes"
    if re.match(r"=FF=D8=FF|=89PNG", text, re.IGNORECASE):
        return "quoted-printable text of an image: decode it and send the bytes"
    if re.match(
        r"\\xff\\xd8|\\x89PNG|\\u00ff\\u00d8|\\u0089PNG|(?:GIF8|RIFF|BM).{0,8}\\[ux]",
        text,
        re.IGNORECASE,
    ):
        return "the bytes of an image as escapes, such as \\xff: send the bytes"
    if re.match(r"begin [0-7]{3,4} |=ybegin ", text):
        return "uuencoded text: decode it and send the bytes"
    numbers = re.match(r"[\[({]*\s*(?:255[,\s]+216[,\s]+255|-1[,\s]+-40[,\s]+-1)\b", text)
    if numbers or re.match(r"[\[({]*\s*(?:137|-119)[,\s]+80[,\s]+78[,\s]+71\b", text):
        return "the bytes of an image as numbers: send the bytes themselves"
    return None


def _address(text: str) -> str | None:
    bare = text.strip("\"'<> ")
    first = bare.split("\n")[0][:_SHOWN]
    if re.match(r"s3[an]?://|arn:aws[\w-]*:s3:", bare, re.IGNORECASE):
        return f"the S3 URI {first!r}, which {_NOT_FETCHED}"
    if re.match(r"[a-z][a-z0-9+.\-]{1,15}://\S", bare, re.IGNORECASE):
        return f"the URL {first!r}, which {_NOT_FETCHED}"
    is_line = "\n" not in bare and len(bare) < 512
    if is_line and re.fullmatch(r"@\S.*", bare):
        return f"{first!r}, a name for curl: write --data-binary {first}"
    if is_line and re.search(
        r"(?:^|[\w)\]])\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|heic|avif|npy)$", bare, re.I
    ):
        return f"the file name {first!r}, which is not opened: send the bytes of the image"
    if is_line and re.fullmatch(r"(?:/|\.{1,2}/|~/|[A-Za-z]:\\)[^\s{}<>\"]+", bare):
        return f"the path {first!r}, which is not opened: send the bytes of the image"
    return None


def _json(text: str) -> str | None:
    if re.match(r'\{\s*"type"\s*:\s*"Buffer"', text):
        return "a Buffer of Node.js as JSON: send the Buffer itself"
    if re.match(r"[\[({]+\s*-?[\d.]", text) or re.match(
        r'\{\s*"(?:instances|inputs|images?|data)"\s*:\s*[\[\s]+-?[\d.]', text
    ):
        return "an array of numbers, such as pixels: send the image file itself"
    if not re.match(r'\{\s*["}]|\[\s*["{\[\]]', text):
        return None
    return name_manifest(text) or _error_of_a_server(text) or (
        f"JSON: {_AS_JSON}" if re.search(_KEYS, text) or re.match(r'\[\s*"', text)
        else f"JSON that begins with {text[:40]!r}: send the bytes of the image"
    )  # fmt: skip


def name_manifest(text: str) -> str | None:
    """Return what JSON text is that points to images elsewhere, and what to do; else None."""
    if re.match(r'(?:\[\s*)?\{\s*"prefix"', text):
        return "an S3 manifest, whose files are not fetched: send the bytes of one image"
    if re.search(r'"(?:source-ref|source)"\s*:', text[:512]):
        return "a line of an augmented manifest, whose image is not fetched: send the image's bytes"
    if re.search(r'"(?:S3Object|s3Object|s3_uri|S3Uri|Bucket)"\s*:|"s3://', text):
        return "JSON with an S3 URI, which is not fetched: send the bytes of the image"
    if re.search(
        r'"(?:url|uri|image_?url|image_?uri|path|file_?(?:name|path)?)"\s*:\s*"', text, re.I
    ):
        return "JSON with the URL or path of an image, which is not fetched: send the image's bytes"
    return None


def _error_of_a_server(text: str) -> str | None:
    key = r'\{\s*"(?:error\w*|message|Message|errorMessage|__type|Code|code|status)"\s*:'
    if re.match(key, text) and not re.search(_KEYS, text):
        return f"a response of another server instead of an image: {text[:_SHOWN]!r}"
    return None


def _markup(text: str) -> str | None:
    bare = re.sub(r"\A(?:\s*<(?:\?xml[^>]*\?|!--.{0,2000}?--)>)*\s*", "", text, flags=re.DOTALL)
    if re.match(r"<!doctype\s+svg|<(?:\w+:)?svg[\s/>]", bare, re.IGNORECASE):
        return "SVG, a drawing: convert it to PNG"
    if re.match(r"<!doctype\s+html|<html[\s>]|<head[\s>]|<body[\s>]", bare, re.IGNORECASE):
        title = re.search(r"<title[^>]*>\s*([^<]{1,80})", bare, re.IGNORECASE)
        said = f" ({title[1].strip()})" if title else ""
        return f"HTML, a web page{said}: get the image file itself"
    if code := re.search(r"<Code>\s*([\w.\-]{1,60})\s*</Code>", bare):
        return f"an XML error of a storage service ({code[1]}): get the image file itself"
    if bare != text or re.match(r"<[A-Za-z!]", bare):
        return f"XML that begins with {(bare or text)[:40]!r}: get the image file itself"
    return None


_TEXTS = (
    (r"version https://git-lfs", f"{LFS_POINTER}: {LFS_CURE}"),
    (r"/annex/objects/|\S*\.git/annex/objects/", "a git-annex pointer: run git annex get"),
    (r"outs:\s*\n-|md5: [0-9a-f]{32}", "a DVC pointer: run dvc pull"),
    (
        r"--[^\s-][^\r\n]{0,80}\r?\nContent-",
        "a form (multipart): send it as multipart/form-data with its boundary, or the file alone",
    ),
    (r"Content-(?:Disposition|Type|Length|Transfer)[\w-]*:", "HTTP headers: send the file alone"),
    (r"HTTP/\d", "an HTTP response with its headers: send the file alone"),
    (r"(?:GET|POST|PUT) /\S* HTTP/", "an HTTP request: send the file alone"),
    (
        r"(?:From|Return-Path|Received|Delivered-To|MIME-Version|Message-ID|Subject|Date)[: ]\s*\S",
        "an email: save the image that is attached to it",
    ),
    (r"-----BEGIN ", "a certificate or key (PEM)"),
    (r"\{'", "Python's text of a dictionary: write JSON (json.dumps)"),
    (r"#!|import \w|from \w+ import |def \w+\(", "the text of a program"),
    (r"\[(?:\.ShellClassInfo|InternetShortcut)\]", "a Windows settings file: leave it out"),
    (r"\[object \w+\]\Z", "the name of a JavaScript object: send its bytes (an ArrayBuffer)"),
    (r"<(?:_io\.|PIL\.|class |\w[\w.]* object at )", "the name of a Python object: send its bytes"),
    (r"\[B@[0-9a-f]{4,8}\Z", "the name of a Java array: send its bytes"),
    (r"(?:undefined|null|None|NaN|true|false)\Z", "the word {!r}: the program sent no image"),
    (
        r"[^\n\t]{0,60}\t[^\n]{0,300}?\.(?:jpe?g|png)",
        "lines of an image list, whose files are not opened: send the bytes of an image",
    ),
    (r"(?:-?\d+(?:\.\d+)?[,;\s]+){12}", "a row of numbers, such as pixels: send the image file"),
    (r"[^\n,]{1,60}(?:,[^\n,]{0,60}){1,30}\n[^\n,]{0,60},", "CSV text: send the image file"),
)
_TEXT_PATTERNS = tuple((re.compile(pattern), said) for pattern, said in _TEXTS)


def _known(text: str) -> str | None:
    for pattern, said in _TEXT_PATTERNS:
        if pattern.match(text):
            return said.format(text[:20])
    return None


_RULES: tuple[Callable[[str], str | None], ...] = (
    _data_url,
    _other_encoding,
    _form_field,
    _known,
    _base64,
    _markup,
    _json,
    _address,
)
