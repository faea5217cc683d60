"""Metrics of one process: as a producer, and as a node if it is a worker."""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from broker_app.errors import RoutingError
from broker_app.metrics.custom import CustomMetrics
from broker_app.metrics.producer import ProducerMetrics, PublishScope
from broker_app.metrics.recorder import Recorder
from broker_app.metrics.worker import NodeMetrics
from broker_app.queues.dead_letters import DeadReason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app.broker.access import Broker
    from broker_app.queues import QueueSpec
    from broker_app.queues.dead_letters import DeadLetterCause

PRODUCER_STEM = "producer"
NODE_STEM = "node"
_DIGEST_DIGITS = 8
_NAME_CHARACTERS = 60


class ProcessMetrics:
    """Metrics of this process; disabled by ``metrics.enabled``.

    Attributes:
        producer: Producer metrics; None if disabled.
        node: Node metrics; None if disabled or not a worker.
        custom: The project's own metrics; None if ``metrics.custom`` leaves this process out.
    """

    def __init__(self, app: Broker) -> None:
        self._app = app
        self.node: NodeMetrics | None = None
        self.producer: ProducerMetrics | None = None
        self.custom: CustomMetrics | None = None
        settings = app.settings.metrics
        if settings.enabled and settings.custom == "all":
            self.custom = CustomMetrics(custom_folder_of(app))
        if settings.enabled:
            self.producer = ProducerMetrics(Recorder(folder_of(app), PRODUCER_STEM, max_tasks=settings.max_tasks))

    def publication(self, task: str, spec: QueueSpec | None) -> PublishScope:
        """Return a context manager for the publishing of one message."""
        if self.custom is not None:
            self.custom.start()
        return PublishScope(self.producer, task, spec)

    @contextmanager
    def routing(self, task: str) -> Iterator[None]:
        """Context manager that counts a task with an invalid destination, priority or delay as refused."""
        try:
            yield
        except RoutingError as error:
            if self.producer is not None:
                self.producer.refused(task, None, error)
            raise

    def bulk_item(self, task: str, spec: QueueSpec | None, error: Exception | None) -> None:
        """Count the outcome of one message of a bulk call.

        Args:
            task: Task name.
            spec: Destination queue; None for an exchange that the settings do not manage.
            error: Why the message was not published; None if the broker confirmed it.
        """
        if self.producer is None:
            return
        if self.custom is not None:
            self.custom.start()
        if error is None:
            self.producer.published(task, spec)
        else:
            self.producer.refused(task, spec, error)

    def buried(self, spec: QueueSpec, death: DeadLetterCause) -> None:
        """Count a dead-lettered message."""
        if self.node is None:
            return
        self.node.buried(spec.name, death.reason.value)
        if death.reason in {DeadReason.UNDECODABLE, DeadReason.UNKNOWN_TASK}:
            self.node.unreadable(spec.name)

    def become(self, node: str) -> NodeMetrics | None:
        """Return the node metrics of this process, creating them if necessary; None if disabled."""
        settings = self._app.settings
        if self.node is None and settings.metrics.enabled:
            recorder = Recorder(folder_of(self._app), node_stem(node), node, settings.metrics.max_tasks)
            self.node = NodeMetrics(recorder, settings.routing_table())
            if self.custom is None and settings.metrics.custom == "workers":
                self.custom = CustomMetrics(custom_folder_of(self._app))
        return self.node


def folder_of(app: Broker) -> Path:
    """Return the folder of an app's metrics files: ``<state_dir>/metrics/<app>``."""
    return app.settings.state_dir / "metrics" / re.sub(r"[^A-Za-z0-9_-]", "_", app.main or "app")


def custom_folder_of(app: Broker) -> Path:
    """Return the folder of an app's custom metrics: ``<state_dir>/metrics/<app>/custom``."""
    return folder_of(app) / "custom"


def node_stem(node: str) -> str:
    """Return the stem of a node's files: its name in safe characters, and a digest that makes it unique."""
    digest = hashlib.sha256(node.encode("utf-8", "backslashreplace")).hexdigest()[:_DIGEST_DIGITS]
    return f"{NODE_STEM}-{re.sub(r'[^A-Za-z0-9_+@-]', '_', node)[:_NAME_CHARACTERS]}-{digest}"
