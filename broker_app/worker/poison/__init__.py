"""Tasks that kill their workers: the crash log, admission, the guard."""
