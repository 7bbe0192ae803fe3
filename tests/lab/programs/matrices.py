"""Multiplies matrices with numpy and prints checksums, at least until there are go-1, go-2 and go-3."""

import os

import numpy

generator = numpy.random.default_rng(4711)
state = generator.standard_normal((300, 300))
for part in range(1, 4):
    for _ in range(20):
        state = state @ generator.standard_normal((300, 300))
        state /= numpy.abs(state).max()
    again = state @ state
    # What is computed while it waits must come out the same each time, on every node.
    while not os.path.exists(f"go-{part}"):
        assert (state @ state == again).all(), "another product"
    values = numpy.linalg.eigvals(state[:50, :50])
    print(part, repr(float(state.sum())), repr(complex(values.sum())), generator.integers(1 << 60), flush=True)
