"""Poison tasks, which kill their workers: crash log, admission control and guard."""
