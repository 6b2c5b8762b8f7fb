"""The PyTorch backend; this file and `catalog` do not import PyTorch."""

from image_classification.backends import c_library

REQUIREMENTS = ""


def prepare(_: int) -> None:
    """Set what PyTorch and OpenMP read while they are loaded."""
    c_library.prepare_training()
