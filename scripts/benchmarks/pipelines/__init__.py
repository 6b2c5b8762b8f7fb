"""The contenders of the loader's benchmark, each a program of its own, and what runs them."""
