"""What the benchmarks have in common: the machine, photographs, and where peers are installed."""
