"""The page at `/`: try the model with an image of your own, without a build or other hosts.

The server writes the facts of the model into the template pages/server.html; everything else the
page does through `/invocations`, as any client would.
"""

from collections.abc import Iterable
from importlib.resources import files

from image_classification import __version__
from image_classification.artifact import Artifact
from image_classification.contract import environment
from image_classification.pages import render

HEADERS = {
    # Only our own scripts, styles and connections; blob: is the preview of a chosen image.
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
    "shrink.js": "text/javascript; charset=utf-8",
    "curl.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

_FORMS = {
    "mxnet": "as SageMaker's Image Classification – MXNet",
    "tensorflow": "as SageMaker's Image Classification – TensorFlow",
}
"""Interface → whose answers clients get that ask for no other."""


def page_files(
    artifact: Artifact, providers: Iterable[str], max_bytes: int
) -> dict[str, tuple[bytes, str]]:
    """Return URL path → (body, content type) of the page and of the files it loads.

    Args:
        artifact: the model that is served.
        providers: what executes its graph, by ONNX Runtime's names.
        max_bytes: of a request; the page shrinks larger images before it sends them.
    """
    shape = artifact.preprocessing
    limits = {
        "bytes": max_bytes,
        "pixels": environment.max_pixels(),
        "input": max(shape.width, shape.height),
    }
    page = render("server.html", facts=_facts(artifact, providers), limits=limits)
    found = {"/": (page.encode("utf-8"), "text/html; charset=utf-8")}
    for name, content_type in _TYPES.items():
        found[f"/{name}"] = (files(__package__).joinpath(name).read_bytes(), content_type)
    return found


def _facts(artifact: Artifact, providers: Iterable[str]) -> dict[str, str]:
    shape, manifest = artifact.preprocessing, artifact.manifest
    color = "gray" if shape.channels == 1 else "RGB"
    several = ", several per image" if artifact.is_multi_label else ""
    return {
        "Network": str(manifest["backbone"]),
        "Classes": f"{len(artifact.labels)}{several}",
        "Input": f"{shape.width} × {shape.height} pixels, {color}",
        "Trained with": str(manifest["backend"]),
        "Default answers": _FORMS.get(artifact.interface, artifact.interface),
        "Runs on": ", ".join(name.removesuffix("ExecutionProvider") for name in providers),
        "Version": __version__,
    }
