"""Pools: a light thread pool, interrupts and time limits."""
