"""Add the SHA-256 of each package to an SBOM: add_hashes.py SBOM FILE...

SBOM is CycloneDX JSON, and is rewritten. The hashes come from the files:

- pip's reports of its installations (*.json): of the wheel
- locks (*.txt): of the source, if the package was built from its source
- what apt-cache show and showsrc print (*.apt): of the .deb, and of the .dsc of a source, which
  has the hashes of the source's files
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote

Key = tuple[str, str, str]  # name, version, architecture ("" for a Python package)


def hashes_of_report(path: Path) -> Iterator[tuple[Key, str]]:
    for item in json.loads(path.read_text("utf-8"))["install"]:
        sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
        yield (normalized(item["metadata"]["name"]), item["metadata"]["version"], ""), sha256


def hashes_of_lock(path: Path) -> Iterator[tuple[Key, str]]:
    text = path.read_text("utf-8").replace("\\\n", " ")
    for name, version, options in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)(.*)$", text):
        hashes = re.findall(r"--hash=sha256:(\w{64})", options)
        if (
            len(hashes) == 1
        ):  # the only file that was allowed; else the report names the installed one
            yield (normalized(name), version, ""), hashes[0]


def hashes_of_index(path: Path) -> Iterator[tuple[Key, str]]:
    for stanza in path.read_text("utf-8").split("\n\n"):
        fields = dict(re.findall(r"(?m)^([\w-]+): *(.*(?:\n .*)*)$", stanza))
        if source := re.search(r"(?m)^ (\w{64}) \d+ \S+\.dsc$", fields.get("Checksums-Sha256", "")):
            yield (fields["Package"], fields["Version"], "source"), source[1]
        elif "SHA256" in fields:
            key = fields["Package"], fields["Version"], fields["Architecture"]
            yield key, fields["SHA256"]


def key_of(component: dict[str, str]) -> Key:
    """Return the key of a component, from its package URL.

    Python packages that were built here have none.
    """
    if "purl" not in component:
        return normalized(component["name"]), component["version"], ""
    kind, _, rest = component["purl"].removeprefix("pkg:").partition("/")
    path, _, qualifiers = rest.partition("?")
    name, _, version = unquote(path).rpartition("@")
    if kind == "pypi":
        return normalized(name), version, ""
    return name.rpartition("/")[2], version, parse_qs(qualifiers)["arch"][0]


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(sbom: Path, *files: Path) -> None:
    readers = {".json": hashes_of_report, ".txt": hashes_of_lock, ".apt": hashes_of_index}
    known: dict[Key, str] = {}
    for path in files:
        known.update(readers[path.suffix](path))
    document = json.loads(sbom.read_text("utf-8"))
    for component in document["components"]:
        if sha256 := known.get(key_of(component)):
            component["hashes"] = [{"alg": "SHA-256", "content": sha256}]
    sbom.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
