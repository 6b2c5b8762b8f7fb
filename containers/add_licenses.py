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
    packages = {c["bom-ref"]: binaries.get(c["bom-ref"], [c["name"]]) for c in missing}
    paths = {ref: copyrights_of(root, names) for ref, names in packages.items()}
    files = set().union(*paths.values())
    declared = {path: expression for path in files if (expression := declared_in(path))}
    concluded = recognized_in(sorted(files - set(declared)))
    for component in missing:
        ref = component["bom-ref"]
        found = {path: (declared | concluded).get(path) for path in paths[ref]}
        if expressions := sorted({expression for expression in found.values() if expression}):
            entry = {"expression": simplified(expressions)}
            is_declared = set(found) <= set(declared)
        else:
            entry = {"license": {"name": f"see system-licenses/{packages[ref][0]}.txt"}}
            is_declared = True
        fields = entry.get("license", entry)
        fields["acknowledgement"] = "declared" if is_declared else "concluded"
        component["licenses"] = [entry]


def binaries_of_sources(document: dict) -> dict[str, list[str]]:
    """Return the names of the binary packages that depend on each source, as debsbom writes it."""
    names = {component["bom-ref"]: component["name"] for component in document["components"]}
    binaries: dict[str, list[str]] = {}
    for entry in document["dependencies"]:
        for target in entry.get("dependsOn", []):
            if "arch=source" in target and "arch=source" not in entry["ref"]:
                binaries.setdefault(target, []).append(names[entry["ref"]])
    return binaries


def copyrights_of(root: Path, packages: list[str]) -> set[Path]:
    found = {(root / "usr/share/doc" / name / "copyright").resolve() for name in packages}
    return {path for path in found if path.is_file()}


def declared_in(path: Path) -> str:
    """Return the SPDX expression of a machine-readable copyright file, or ""."""
    from debian.copyright import Copyright, MachineReadableFormatError, NotMachineReadableError

    try:
        with path.open(encoding="utf-8") as text:
            paragraphs = list(Copyright(text, strict=False).all_files_paragraphs())
    except (MachineReadableFormatError, NotMachineReadableError, ValueError):
        return ""
    names = {paragraph.license.synopsis for paragraph in paragraphs if paragraph.license}
    return simplified([in_spdx(name) for name in sorted(names - {""})])


def recognized_in(paths: list[Path]) -> dict[Path, str]:
    """Return what licensecheck finds in the texts, in one call, because it starts slowly."""
    if not paths:
        return {}
    command = ["licensecheck", "--shortname-scheme=spdx", "--machine", "--lines=0", *paths]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.rpartition("\t") for line in printed.splitlines()]
    return {Path(path): simplified([in_spdx(name)]) for path, _, name in rows if name != "UNKNOWN"}


def simplified(expressions: list[str]) -> str:
    """Join by AND, without what is repeated."""
    from license_expression import AND

    if not expressions:
        return ""
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
