"""Shared by the benchmarks: the machine, photographs, interpreters of peers."""
