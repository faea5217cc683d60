"""Commands of the tests that hang."""

from __future__ import annotations

import subprocess
import sys

import pytest
from commands import outputs


def test_a_command_that_hangs_says_where() -> None:
    """The failure has the stack of the command, which is ended."""
    code = "import threading\ndef waits_in_vain(): threading.Event().wait()\nwaits_in_vain()"
    with (
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process,
        pytest.raises(AssertionError, match="in waits_in_vain"),
    ):
        outputs(process, 2)
    assert process.poll() is not None
