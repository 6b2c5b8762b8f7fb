"""The servers that the serving benchmark compares, and what drives and watches them."""
