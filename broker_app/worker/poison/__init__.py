"""Poison tasks, which kill their workers: crash log, suspects and guard."""
