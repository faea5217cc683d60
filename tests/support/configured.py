"""A client of workers that run in a folder with the same settings file, and the error of a failed result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import patient

from broker_app import BrokerApp

if TYPE_CHECKING:
    from pathlib import Path

    from celery.result import AsyncResult

RESULT_SECONDS = 90.0


def configured_client(folder: Path, url: str, settings: str) -> BrokerApp:
    """Write the settings (TOML) of the workers that run in the folder; return an app of this process with them."""
    file = folder / "config" / "broker.toml"
    file.parent.mkdir(exist_ok=True)
    head = f"broker_url = '{url}'\nstate_dir = '{folder / 'state'}'\n"
    file.write_text(head + patient(settings), encoding="utf-8")
    return BrokerApp("client", config=file, set_as_current=False)


def failure(result: AsyncResult) -> BaseException:
    """Return what a result that failed raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one, the caller judges
        result.get(timeout=RESULT_SECONDS, interval=0.05)
    return caught.value
