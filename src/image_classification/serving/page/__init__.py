"""The page at `/`: try the model with an image of your own. Plain files, no build, no network.

The facts of the model are written into the page by the server; everything else the page does
through `/invocations`, as any caller would.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from importlib.resources import files

from image_classification import __version__
from image_classification.artifact import Artifact

HEADERS = {
    # No script, style or connection but ours; blob: is the preview of the chosen image.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

_TYPES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def page_files(artifact: Artifact, providers: Iterable[str]) -> dict[str, tuple[bytes, str]]:
    """URL path → (body, content type) of the page and of what it loads.

    Args:
        artifact: the model that is served.
        providers: what executes its graph.
    """
    folder = files(__package__)
    page = folder.joinpath("index.html").read_text("utf-8")
    title = html.escape(str(artifact.manifest["backbone"]))
    page = page.replace("{{title}}", title).replace("{{facts}}", _facts(artifact, providers))
    found = {"/": (page.encode("utf-8"), "text/html; charset=utf-8")}
    for name, content_type in _TYPES.items():
        found[f"/{name}"] = (folder.joinpath(name).read_bytes(), content_type)
    return found


def _facts(artifact: Artifact, providers: Iterable[str]) -> str:
    shape, manifest = artifact.preprocessing, artifact.manifest
    color = "gray" if shape.channels == 1 else "RGB"
    facts = {
        "Network": manifest["backbone"],
        "Classes": f"{len(artifact.labels)}" + (", several an image" * artifact.is_multi_label),
        "Input": f"{shape.width} × {shape.height} pixels, {color}",
        "Backend": manifest["backend"],
        "Answers as": f"{artifact.interface} interface",
        "Runs on": ", ".join(name.removesuffix("ExecutionProvider") for name in providers),
        "Version": __version__,
    }
    return "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in facts.items()
    )
