"""Measurements, each side by side with its alternative in the same run: ``python -m benchmarks``.

A benchmark checks its premises (all messages arrived, were confirmed, reached the right queue) and stops
when one does not hold. It never asserts a speed: the table says whether the goal was met.
"""
