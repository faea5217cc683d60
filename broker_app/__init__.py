"""Prioritised Celery work on RabbitMQ.

The public names are imported when they are first used, so that `broker-app --help` loads no Celery.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker_app.app import BrokerApp, app  # noqa: TC004 - `_Package` imports it when it is used
    from broker_app.publishing.bulk import publish_many  # noqa: TC004
    from broker_app.queues import Backoff  # noqa: TC004

__all__ = ["Backoff", "BrokerApp", "app", "publish_many"]

_MODULES = {
    "Backoff": "broker_app.queues",
    "BrokerApp": "broker_app.app",
    "app": "broker_app.app",
    "publish_many": "broker_app.publishing.bulk",
}
"""The module of each public name."""


class _Package(ModuleType):
    """This package; `app` is the Celery app even after the module `broker_app.app` has been imported."""

    def __getattr__(self, name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        value = getattr(import_module(_MODULES[name]), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        is_module = name == "app" and isinstance(value, ModuleType)  # set by the import of the module
        super().__setattr__(name, value.app if is_module else value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
