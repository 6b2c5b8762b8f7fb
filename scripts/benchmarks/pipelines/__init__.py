"""The contenders of the loader benchmark, each a separate program, and their driver."""
