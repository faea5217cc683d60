"""Pools: threads, interrupts and time limits."""
