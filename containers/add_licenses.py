"""Add the licenses that an SBOM does not have: add_licenses.py SBOM system|python FOLDER.

SBOM is CycloneDX JSON, and is rewritten. FOLDER is the root of the system, or site-packages.

The licenses of a Debian package are those of all paragraphs of its copyright file, joined by AND,
in SPDX's words; a name that SPDX does not have becomes a LicenseRef. If the file is not
machine-readable, the program licensecheck recognizes the licenses in its text, and they are
"concluded". The license of a Python package is the field License of its metadata.
"""

import json
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

ACKNOWLEDGED = {True: "declared", False: "concluded"}


def main(sbom: Path, kind: str, folder: Path) -> None:
    document = json.loads(sbom.read_text("utf-8"))
    missing = [component for component in document["components"] if not component.get("licenses")]
    if kind == "system":
        add_debian(missing, document, folder)
    else:
        add_python(missing, folder)
    sbom.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def add_python(missing: list[dict], folder: Path) -> None:
    declared = {
        found.name: found.metadata.get("License") for found in distributions(path=[str(folder)])
    }
    for component in missing:
        name = declared.get(component["name"]) or "see python-licenses.txt"
        component["licenses"] = [{"license": {"name": name, "acknowledgement": "declared"}}]


def add_debian(missing: list[dict], document: dict, root: Path) -> None:
    binaries = binaries_of_sources(document)
    found: dict[Path, tuple[str, bool]] = {}
    for component in missing:
        packages = binaries.get(component["bom-ref"], [component["name"]])
        paths = {copyright_of(root, package) for package in packages} - {None}
        for path in paths - set(found):
            found[path] = licenses_of(path)
        expressions = {found[path] for path in paths if found[path][0]}
        if expressions:
            joined = simplified([expression for expression, _ in sorted(expressions)])
            is_declared = all(is_declared for _, is_declared in expressions)
            license = {"expression": joined, "acknowledgement": ACKNOWLEDGED[is_declared]}
            component["licenses"] = [license]
        else:
            name = f"see system-licenses/{packages[0]}.txt"
            component["licenses"] = [{"license": {"name": name, "acknowledgement": "declared"}}]


def binaries_of_sources(document: dict) -> dict[str, list[str]]:
    """Return the names of the binary packages that depend on each source, as debsbom writes it."""
    names = {component["bom-ref"]: component["name"] for component in document["components"]}
    binaries: dict[str, list[str]] = {}
    for entry in document["dependencies"]:
        for target in entry.get("dependsOn", []):
            if "arch=source" in target and "arch=source" not in entry["ref"]:
                binaries.setdefault(target, []).append(names[entry["ref"]])
    return binaries


def copyright_of(root: Path, package: str) -> Path | None:
    path = (root / "usr/share/doc" / package / "copyright").resolve()
    return path if path.is_file() else None


def licenses_of(path: Path) -> tuple[str, bool]:
    """Return the SPDX expression of a copyright file ("": unknown), and whether it is declared."""
    from debian.copyright import Copyright, MachineReadableFormatError, NotMachineReadableError

    try:
        with path.open(encoding="utf-8") as text:
            paragraphs = list(Copyright(text, strict=False).all_files_paragraphs())
        names = {paragraph.license.synopsis for paragraph in paragraphs if paragraph.license}
        if expressions := [in_spdx(name) for name in sorted(names - {""})]:
            return simplified(expressions), True
    except (MachineReadableFormatError, NotMachineReadableError, ValueError):
        pass  # prose
    command = ["licensecheck", "--shortname-scheme=spdx", "--machine", "--lines=0", path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    name = printed.strip().rpartition("\t")[2]
    return ("" if name == "UNKNOWN" else simplified([in_spdx(name)])), False


def simplified(expressions: list[str]) -> str:
    """Join by AND, without what is repeated."""
    from license_expression import AND

    parsed = [spdx().parse(expression) for expression in expressions]
    return str((AND(*parsed) if len(parsed) > 1 else parsed[0]).simplify())


def in_spdx(synopsis: str) -> str:
    """Translate "GPL-2+ or Artistic, and Expat": a comma ends the operand before it."""
    result = ""
    for part in re.split(r"(, *(?:and/or|and|or) +)", synopsis):
        if part.startswith(","):
            result = f"({result}){operator_of(part.strip(', '))}"
        else:
            pieces = re.split(r" +(and/or|and|or) +", part.strip("() "))
            names = [spdx_name(piece.strip("() ")) for piece in pieces[::2]]
            text = names[0] + "".join(
                operator_of(word) + name for word, name in zip(pieces[1::2], names[1:], strict=True)
            )
            result += f"({text})" if result else text
    return result


def operator_of(word: str) -> str:
    """Both licenses may apply to a part of the package, so "and/or" is AND."""
    return " OR " if word == "or" else " AND "


@cache
def spdx_name(name: str) -> str:
    from debsbom.apt.copyright import WELL_KNOWN_EXCEPTIONS, WELL_KNOWN_EXPRESSIONS

    shorter = re.sub(r"(?<=-\d)\.0(?=\+?$)", "", name)  # GPL-2.0+ is GPL-2+
    for written in (name, shorter):
        if found := WELL_KNOWN_EXCEPTIONS.get(written) or WELL_KNOWN_EXPRESSIONS.get(written):
            return found
    if re.fullmatch(r"[\w.+-]+", name) and not spdx().unknown_license_keys(name):
        return str(spdx().parse(name))
    return "LicenseRef-debian-" + re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


@cache
def spdx():
    """The names of SPDX, with their spellings."""
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
