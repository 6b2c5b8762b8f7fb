"""The TensorFlow backend; this file and `catalog` do not import TensorFlow."""

from image_classification.backends import c_library

REQUIREMENTS = ""


def prepare(_: int) -> None:
    """Keep a dozen lines about this machine's processor out of the log, unless a level is set."""
    c_library.set_variables({"TF_CPP_MIN_LOG_LEVEL": "2"})
