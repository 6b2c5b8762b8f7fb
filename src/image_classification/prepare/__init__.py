"""Offline preparation: inventory, checks, packing, channels and their reports."""
