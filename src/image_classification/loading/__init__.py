"""Samples to batches: sources, order, decoding threads."""
