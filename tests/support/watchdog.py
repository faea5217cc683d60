"""No test waits for ever, and a run of half an hour tells of a failure when it happens.

pytest-timeout sets off one alarm for a test, its fixtures and its reruns together, and cancels it once the test
has failed. What waits after that, such as a ``with ThreadPoolExecutor``, the end of a fixture or the next try,
would wait for ever. Here each try has its whole time, its alarm comes back, and the end of a failed test has one.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import FrameType

    from _pytest.terminal import TerminalReporter

REPEAT_SECONDS = 60
"""How long each further wait of a test may take once its time is over."""
_SHOWN_LINES = 25


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give each try the whole time of the test."""
    _set_alarm(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Give the end of a failed test its whole time."""
    if _nobody_hears():
        _set_alarm(item)


def _nobody_hears() -> bool:
    return signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def _set_alarm(item: pytest.Item) -> None:
    """Set the alarm that pytest-timeout cancels at the end of the test; its own handler stays if it is there."""
    if _nobody_hears():
        signal.signal(signal.SIGALRM, _give_up)
    marker = item.get_closest_marker("timeout")
    if marker is not None:
        signal.setitimer(signal.ITIMER_REAL, marker.args[0], min(marker.args[0], REPEAT_SECONDS))


def _give_up(number: int, frame: FrameType | None) -> None:
    del number, frame
    pytest.fail("it took longer than the time limit of the test")


def pytest_configure(config: pytest.Config) -> None:
    """Tell of failures where there is a terminal: not in the processes of pytest-xdist.

    What the tests start says where it stands when it is ended by SIGABRT: see `ending.outputs`.
    """
    os.environ["PYTHONFAULTHANDLER"] = "1"
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Teller(config))


class _Teller:
    """It writes the last lines of a failure when it is reported, not at the end of the run only."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write what failed, when, and the end of its report."""
        terminal: TerminalReporter | None = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None or report.outcome not in ("failed", "rerun"):
            return
        terminal.ensure_newline()
        terminal.write_line(
            f"{time.strftime('%H:%M:%S')} {report.outcome} in {report.when}: {report.nodeid}", red=True
        )
        for line in report.longreprtext.splitlines()[-_SHOWN_LINES:]:
            terminal.write_line(f"    {line}")
