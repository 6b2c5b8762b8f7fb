"""The reference backend: NumPy alone, slow and plain; it defines what the other backends compute.

Read it to add a backend; the parity tests compare the new one with it. It computes in float64 and
keeps float32, so that differences from it are rounding errors of the other backend.
"""

REQUIREMENTS = ""


def prepare(_: int) -> None:
    """Nothing: NumPy's BLAS has read OMP_NUM_THREADS by now."""
