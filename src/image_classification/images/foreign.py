"""Names data that is not an accepted image, and the cure, so that a user can act on a refusal.

In: the bytes of anything that is not an accepted image. Out: the end of a sentence, such as
"TIFF: convert it to JPEG or PNG". Only the first 4 KiB are read, whatever the size, and nothing is
parsed as its format: signatures, brands and names of members identify the formats. Sources: the
specifications of the formats; ISO/IEC 14496-12, 4.3 (brands); `foreign_text` names texts.
"""

import re
import zlib

from image_classification.images.avif import can_decode
from image_classification.images.foreign_text import IMAGE, name_text

HEAD_BYTES = 4096

CONVERT = "convert it to JPEG or PNG"
TIFF = f"TIFF: {CONVERT}"
"""What is said of a TIFF that is not a raw photograph; its most common forms are decoded."""

PPM = f"PPM: {CONVERT}"
"""What is said of a binary PPM or PGM; it is decoded if it has 8 bits a value."""

AVIF = "AVIF"
"""How the name of every AVIF begins; it is decoded where Pillow can do that."""

_VIDEO = "save a frame of it as JPEG or PNG"
_UNPACK = "unpack it first"
_DEVELOP = "export it as JPEG or PNG"
_LEAVE_OUT = "it only accompanies images; leave it out"
_NO_CURE = ""

# Cure → (offset, first bytes, name).
_SIGNATURES: dict[str, tuple[tuple[int, bytes, str], ...]] = {
    CONVERT: (
        (0, b"II+\0", "BigTIFF"), (0, b"MM\0+", "BigTIFF"), (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (0, b"\xff\x4f\xff\x51", "JPEG 2000 (a bare codestream)"), (0, b"\xff\x0a", "JPEG XL"),
        (0, b"\0\0\0\x0cJXL ", "JPEG XL"), (0, b"II\xbc\x01", "JPEG XR"), (0, b"BPG\xfb", "BPG"),
        (0, b"FLIF", "FLIF"), (0, b"8BPS", "a Photoshop file"), (0, b"\0\0\1\0", "ICO"),
        (0, b"\0\0\2" + bytes(9), "TGA"), (0, b"\0\0\x0a" + bytes(9), "TGA"),
        (0, b"\0\0\2\0", "CUR, a cursor"), (0, b"icns", "ICNS"), (0, b"gimp xcf", "a GIMP file"),
        (0, b"%!PS", "PostScript (EPS)"), (0, b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
        (0, b"v/1\x01", "OpenEXR"), (0, b"#?RADIANCE", "Radiance HDR"), (0, b"#?RGBE", "HDR"),
        (0, b"DDS ", "DDS, a texture"), (0, b"\xabKTX ", "KTX, a texture"), (0, b"qoif", "QOI"),
        (0, b"farbfeld", "farbfeld"), (0, b"SIMPLE  =", "FITS"), (0, b"\x8aMNG", "MNG"),
        (0, b"\x8bJNG", "JNG"), (0, b"\x01\xda\x01", "SGI"), (0, b"\x01\xda\0", "SGI"),
        (0, b"\x59\xa6\x6a\x95", "a Sun raster"), (0, b"AT&TFORM", "DjVu"),
        (0, b"\xd7\xcd\xc6\x9a", "WMF"), (40, b" EMF", "EMF"), (0, b"/* XPM */", "XPM"),
        (0, b"\x0a\x05\x01\x08", "PCX"), (128, b"DICM", "DICOM, a medical image"),
        (344, b"n+1\0", "NIfTI, a medical volume"), (344, b"ni1\0", "NIfTI, a medical volume"),
        (0, b"%PDF", "PDF, a document"),
        *((0, b"P%d%c" % (number, end), "PPM" if number in (5, 6) else "PNM")
          for number in range(1, 8) for end in b" \t\r\n"),
        (0, b"PF\n", "PFM"), (0, b"Pf\n", "PFM"),
    ),
    _DEVELOP: tuple(
        (0, mark, f"{name}, a raw photograph")
        for mark, name in (
            (b"II*\0\x10\0\0\0CR", "Canon CR2"), (b"FUJIFILMCCD-RAW", "Fujifilm RAF"),
            (b"IIU\0", "Panasonic RW2"), (b"IIRO", "Olympus ORF"), (b"IIRS", "Olympus ORF"),
            (b"MMOR", "Olympus ORF"), (b"II\x1a\0\0\0HEAPCCDR", "Canon CRW"),
            (b"FOVb", "Sigma X3F"), (b"\0MRM", "Minolta MRW"),
        )
    ),
    _VIDEO: (
        *((4, kind, "a QuickTime video") for kind in (b"moov", b"mdat", b"wide", b"pnot")),
        (0, b"FLV\1", "a Flash video"), (0, b"\0\0\1\xba", "an MPEG video"),
        (0, b"\0\0\1\xb3", "an MPEG video"), (0, b"\0\0\0\1\x67", "an H.264 video"),
        (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"),
    ),
    _NO_CURE: (
        (0, b"OggS", "an Ogg file (sound or video)"), (0, b"fLaC", "FLAC sound"),
        *((0, b"ID3%c" % version, "MP3 sound") for version in (2, 3, 4)),
        (0, b"\xff\xfb", "MP3 sound"), (0, b"\xff\xf3", "MP3 sound"),
        (0, b"\xff\xf2", "MP3 sound"), (0, b"\xff\xf1", "AAC sound"), (0, b"\xff\xf9", "AAC sound"),
        (0, b"MThd", "MIDI"), (8, b"AIFF", "AIFF sound"), (8, b"AIFC", "AIFF sound"),
        (0, b"#!AMR", "AMR sound"), (0, b".snd", "AU sound"),
        (0, b"SQLite format 3", "an SQLite database"),
        (0, b"\x7fELF", "a program"), (0, b"MZ\x90\0", "a Windows program"),
        (0, b"\0asm", "WebAssembly"),
        (0, b"\xca\xfe\xba\xbe", "a Java class or a macOS program"),
        (0, b"\xcf\xfa\xed\xfe", "a macOS program"), (0, b"\0\1\0\0\0", "a font"),
        (0, b"OTTO\0", "a font"), (0, b"wOFF", "a font"), (0, b"wOF2", "a font"),
        (0, b"PAR1", "a Parquet table"), (0, b"ARROW1", "an Arrow table"),
        (0, b"Obj\1", "an Avro file"), (0, b"\x89HDF\r\n\x1a\n", "HDF5 (of Keras, for example)"),
        (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document or Thumbs.db"),
        (0, b"{\\rtf", "an RTF document"), (0, b"TFL3", "a TensorFlow Lite model"),
        (4, b"TFL3", "a TensorFlow Lite model"), (0, b"GGUF", "a GGUF model"),
    ),
    "encode the array as PNG and send that": ((0, b"\x93NUMPY", "a NumPy array (.npy)"),),
    _LEAVE_OUT: (
        (0, b"\0\0\0\1Bud1", ".DS_Store, a file of macOS"),
        (0, b"\0\5\x16\7", "a resource file of macOS (its name begins with ._)"),
        (0, b"L\0\0\0\1\x14\2\0", "a Windows shortcut (.lnk)"),
    ),
    _UNPACK: (
        (0, b"PK\5\6", "an empty ZIP archive"), (0, b"PK\7\x08", "a ZIP archive"),
        (257, b"ustar", "a tar archive"), (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (0, b"Rar!\x1a\7", "a RAR archive"), (0, b"!<arch>\n", "an ar archive"),
        (0, b"MSCF", "a CAB archive"),
    ),
    "decompress it first": (
        (0, b"\x1f\x8b", "gzip"),
        (0, b"\x28\xb5\x2f\xfd", "zstd"), (0, b"\xfd7zXZ\0", "xz"), (4, b"1AY&SY", "bzip2"),
        (0, b"\x04\x22\x4d\x18", "LZ4"), (0, b"\x5d\0\0", "LZMA"), (0, b"\x1f\x9d", "compress"),
        (0, b"\xff\6\0\0sNaPpY", "Snappy"),
    ),
    "send records as application/x-recordio": ((0, b"\x0a\x23\xd7\xce", "a RecordIO record"),),
}  # fmt: skip

_BRANDS = (  # ISO base media: the first row that a file's brands meet
    ({b"avif", b"avis", b"avio"}, AVIF, f"{CONVERT}, or install Pillow's wheel, which decodes it"),
    (
        {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"},
        "HEIC",
        f"{CONVERT} (for example with heif-convert, or with magick mogrify -format jpg *.heic)",
    ),
    ({b"jxl "}, "JPEG XL", CONVERT),
    ({b"jp2 ", b"jpx ", b"jpm ", b"jph ", b"j2ki"}, "JPEG 2000", CONVERT),
    ({b"mif1", b"mif2", b"mif3", b"msf1", b"miaf"}, "HEIF", CONVERT),
    ({b"crx "}, "Canon CR3, a raw photograph", _DEVELOP),
    ({b"M4A ", b"M4B ", b"M4P "}, "M4A sound", _NO_CURE),
)
_SEQUENCES = {b"avis", b"msf1", b"hevc", b"hevx", b"hevm", b"hevs"}
_MEMBERS = (  # of a ZIP archive
    (b".npy", "NumPy arrays (.npz)", "encode the array as PNG and send that"),
    (b"data.pkl", "a PyTorch file", _NO_CURE), (b"model.weights.h5", "a Keras model", _NO_CURE),
    (b"word/", "a Word document", CONVERT), (b"xl/", "an Excel sheet", _NO_CURE),
    (b"ppt/", "a PowerPoint document", CONVERT), (b"META-INF", "a Java archive", _NO_CURE),
)  # fmt: skip
_MAKERS = ((b"NIKON", "Nikon NEF"), (b"SONY", "Sony ARW"), (b"PENTAX", "Pentax PEF"))
_DNG = (b"\x12\xc6\1\0\4\0\0\0", b"\xc6\x12\0\1\0\0\0\4")  # the tag DNGVersion, 4 bytes

_TEXT_ENCODING = (
    "went through a text encoding, which destroys them: send the file in binary (in API Gateway, "
    "allow its type as binary media)"
)
_WIDE = re.compile(
    rb".{0,24}(?:J\0F\0I\0F|E\0x\0i\0f|P\0N\0G\0|\xff\0\xd8\0\xff"
    rb"|G\0I\0F\08\0|R\0I\0F\0F\0|B\0M\0.\0.\0.\0)",
    re.DOTALL,
)
_RECODED = re.compile(  # JPEG and PNG as Latin-1, code page 437, Mac Roman and ASCII give them
    rb"(?:\xef\xbb\xbf)?(?:\xc3\xbf\xc3\x98\xc3\xbf|\xc2\xa0\xe2\x95\xaa|\xcb\x87\xc3\xbf\xcb\x87"
    rb"|(?:\xc2\x89|\xe2\x80\xb0|\xc3\xab|\xc3\xa2|\x09|\?|)PNG\r?\n|\x7fX\x7f)"
)
_REMAINS = re.compile(rb"[^\xff].{0,24}(?:JFIF\0|Exif\0\0[IM])|.{0,24}IHDR\0\0", re.DOTALL)
_STRIPPED = (
    "a {} without its line breaks and zero bytes, which curl --data removes: use curl --data-binary"
)
_NODE = b"\x75\xab\x5a"  # Buffer.from("data:…", "base64") decodes the letters of "data" too
_FEWEST_BYTES = 64  # an image this large has a zero byte: in lengths, sizes or end marks


def name_foreign(data: bytes) -> str:
    """Return what `data`, which is not an accepted image, is and what to do about it."""
    return recognize(data) or f"unknown bytes that begin with {data[:16]!r}"


def decoded_format(named: str) -> str:
    """Return the format of a file that `recognize` names although it is decoded here, or ""."""
    if named in (TIFF, PPM):  # and not a raw photograph
        return named[: named.index(":")]
    return "AVIF" if named.startswith(AVIF) and can_decode() else ""


def recognize(data: bytes) -> str | None:
    """As `name_foreign`, but None for unknown bytes and for words."""
    if not data:
        return "0 bytes: an empty file"
    head = data[:HEAD_BYTES]
    if not head.strip(b"\0"):
        return (
            f"{len(data)} bytes that begin with zeros only: the file was not written or copied "
            "completely; get it again"
        )
    named = _altered(head) or _by_signature(head) or _with_structure(head, data) or name_text(head)
    return named or _image_inside(head)


def altered_on_the_way(data: bytes, image_format: str) -> str | None:
    """Return how a file that begins as `image_format` was altered, or None if nothing shows it."""
    if len(data) >= _FEWEST_BYTES and b"\0" not in data:
        return _STRIPPED.format(image_format)
    declared = {"BMP": data[2:6], "WEBP": data[4:8]}.get(image_format, b"")
    if len(data) - int.from_bytes(declared, "little") in (0, 8):
        return None  # the declared size is right: bytes that read as text are colors
    try:
        text = data.decode("utf-8")  # fails at once for a JPEG, a PNG and nearly every other image
    except UnicodeDecodeError:
        return None
    if len(data) - len(text) < len(data) // 8:
        return None
    return f"{image_format} bytes that {_TEXT_ENCODING}"


def _altered(head: bytes) -> str | None:
    """Name a JPEG or PNG that something took for text."""
    if head.startswith(b"\x89PNG\x1a"):
        return _STRIPPED.format("PNG")
    if head.startswith(b"\x89PNG"):
        return "a PNG whose line breaks were converted: transfer it in binary mode"
    if head.startswith(_NODE):
        return (
            'a data: URL decoded as a whole: remove the text up to "base64," before you decode it'
        )
    if head.startswith(b"RIFF") and (at := head.find(b"WEBP", 4, 24)) > 0:
        return f"WEBP bytes that {_TEXT_ENCODING}" if at > 8 else _STRIPPED.format("WEBP")
    if _WIDE.match(head):
        return f"bytes that {_TEXT_ENCODING}; they are UTF-16, as PowerShell's > writes it"
    is_recoded = head.count(b"\xef\xbf\xbd") >= 3 or _RECODED.match(head)
    if is_recoded or (_REMAINS.match(head) and not IMAGE.search(head)):
        return f"bytes that {_TEXT_ENCODING}"
    return None


def _by_signature(head: bytes) -> str | None:
    for cure, entries in _SIGNATURES.items():
        for offset, mark, name in entries:
            if head.startswith(mark, offset):
                return _said(name, cure)
    return None


def _said(name: str, cure: str) -> str:
    return f"{name}: {cure}" if cure else name


def _with_structure(head: bytes, data: bytes) -> str | None:
    """Name formats that one signature does not tell."""
    start = head[:4]
    if start in (b"II*\0", b"MM\0*"):
        return _tiff(head)
    if head[4:8] == b"ftyp":
        return _base_media(head)
    if start == b"RIFF":
        kind = {b"AVI ": "an AVI video", b"WAVE": "WAV sound", b"ACON": "a cursor"}
        name = kind.get(head[8:12], f"a RIFF file of type {head[8:12]!r}")
        return _said(name, _VIDEO if "video" in name else _NO_CURE)
    if start == b"\x1a\x45\xdf\xa3":
        return f"a {'WebM' if b'webm' in head[:64] else 'Matroska'} video: {_VIDEO}"
    if start == b"PK\3\4":
        names = (_said(name, cure) for part, name, cure in _MEMBERS if part in head)
        return next(names, f"a ZIP archive: {_UNPACK}")
    if head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and data.endswith(b"."):
        return "a Python pickle, which is never read because it can contain code"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < len(data):
        return "safetensors, the weights of a network"
    if re.match(rb"\x08[\x01-\x10]\x12[\x02-\x30][\w.\-]{2}", head):
        return "an ONNX graph"
    if head[4:8] == bytes(4) and head[12:13] == b"\x0a" and b"image/" in head:
        return "a TFRecord: send the image in it"
    if head[0] == 0x47 and head[188:189] == b"\x47" and head[376:377] == b"\x47":
        return f"an MPEG transport stream: {_VIDEO}"
    if data[-18:-2] == b"TRUEVISION-XFILE":
        return f"TGA: {CONVERT}"
    if b"%PDF-" in head[:1024]:
        return f"PDF, a document: {CONVERT}"
    return _deflated(head)


def _tiff(head: bytes) -> str:
    for mark, name in _MAKERS:
        if mark in head:
            return _said(f"TIFF or {name}, a raw photograph", _DEVELOP)
    if any(mark in head for mark in _DNG):
        return _said("DNG, a raw photograph", _DEVELOP)
    return TIFF


def _base_media(head: bytes) -> str:
    size = int.from_bytes(head[:4], "big")
    brands = {head[at : at + 4] for at in (8, *range(16, min(size, 128), 4))}
    for known, name, cure in _BRANDS:
        if brands & known and not (name == "HEIF" and head[8:12] not in known):
            sequence = " (a sequence of images)" if head[8:12] in _SEQUENCES else ""
            return _said(name + sequence, cure)
    return f"an MP4 or QuickTime file: {_VIDEO}"


def _deflated(head: bytes) -> str | None:
    if head[0] & 0x0F != 8 or int.from_bytes(head[:2], "big") % 31 or len(head) < 8:
        return None
    try:
        content = zlib.decompressobj().decompress(head, HEAD_BYTES)
    except zlib.error:
        return None
    return "zlib data: decompress it first" if content else None


def _image_inside(head: bytes) -> str | None:
    """Name an image with something in front of it."""
    found = IMAGE.search(head)
    if found is None:
        return None
    before = head[: found.start()]
    if named := name_text(before) if len(before) > 8 else None:
        return named
    said = f"{before[:16]!r}" if before != b"\xef\xbb\xbf" else "a byte order mark"
    return f"{said} in front of a {found.lastgroup}: send the file alone"
