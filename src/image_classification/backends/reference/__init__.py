"""The reference backend: NumPy alone, slow and plain. It says what the other backends compute.

Read it to add a backend (`docs/architecture.md`), and let the parity tests compare one with it. It
computes in float64 and keeps float32, so that what differs from it is another's rounding.
"""
