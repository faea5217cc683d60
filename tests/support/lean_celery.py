"""Celery's commands without two parts that no worker needs: half of what `celery` imports when it starts.

Each of them imports every command and plug-in: Flower's, where it is installed, and the interactive shell of
`celery amqp`. That took 0.5 of 0.9 seconds of processor time, and a suite starts hundreds of workers. The folder
`lean` stands before the environment's packages: it has a click_repl that does nothing, and names a release of
Flower without plug-ins.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "PYTHONPATH"
_LEAN = Path(__file__).with_name("lean")


def python_path(*folders: Path) -> str:
    """Return the value of PYTHONPATH for the processes of a test that imports from these folders."""
    return os.pathsep.join(map(str, [*folders, _LEAN]))
