"""Computes until it is killed."""

while True:
    pass
