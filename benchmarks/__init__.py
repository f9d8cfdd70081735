"""Measurements of speed, cost and strength: `make bench`, or `python -m benchmarks.speed`."""
