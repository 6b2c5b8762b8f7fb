"""The servers of the serving benchmark, their client and their measurement."""
