"""Our settings as Celery's: what BrokerApp tells Celery, and why it differs from Celery's own defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from queues import Names, work_queue

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from broker_app.settings import Settings

SQLITE_BUSY_TIMEOUT_MS = 10_000
"""How long a writer waits for another: one at a time may write to SQLite."""


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Return Celery's configuration; what a user's own configuration sets wins over it."""
    return _broker(settings) | _routing(settings) | _consuming() | _results(settings)


def _broker(settings: Settings) -> dict[str, Any]:
    return {
        "broker_url": settings.broker_url.get_secret_value(),
        # Celery's default of 120 s leaves a dead peer undetected for minutes, with a prefetch in its hands.
        "broker_heartbeat": settings.heartbeat_seconds,
        "broker_heartbeat_checkrate": 2,
        "broker_connection_timeout": settings.publish.connect_timeout_seconds,
        "broker_connection_retry_on_startup": True,
        # A worker waits for its broker for ever: what stops it is its operator.
        "broker_connection_max_retries": None,
        # Without it a half-open connection kills the worker: its control queue is still locked (405).
        "broker_channel_error_retry": True,
        "broker_pool_limit": settings.publish.pool_limit,
        # A blocked broker stops reading; without a bound the send of a large message would hang.
        "broker_transport_options": {"write_timeout": settings.publish.timeout_seconds},
    }


def _routing(settings: Settings) -> dict[str, Any]:
    names, table = Names(settings.prefix), settings.routing_table()

    def route(name: str, *_args: Any, **_kwargs: Any) -> dict[str, str] | None:
        spec = table.for_task(name)
        return None if spec is None else {"queue": spec.name}

    return {
        "task_queues": tuple(work_queue(spec) for spec in table),
        "task_default_queue": table.queue(table.default).name,
        "task_default_exchange": names.tasks,
        "task_default_exchange_type": "topic",
        "task_default_routing_key": table.queue(table.default).broker_name,
        "task_create_missing_queues": False,
        "task_routes": (route,),
        "control_exchange": f"{settings.prefix}celery",
        "event_exchange": f"{settings.prefix}celeryev",
    }


def _consuming() -> dict[str, Any]:
    return {
        "worker_consumer": "broker_app.worker.consumer:Consumer",
        # Early acks lose what runs when a worker is killed.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A task that failed for good is rejected, so that it stands in the dead letters.
        "task_acks_on_failure_or_timeout": False,
        "worker_prefetch_multiplier": 1,
        "task_track_started": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "enable_utc": True,
    }


def _results(settings: Settings) -> dict[str, Any]:
    common = {"result_expires": settings.result_expires_seconds, "result_extended": True}
    if settings.result_url is not None:
        return common | {"result_backend": settings.result_url.get_secret_value()}
    file = settings.state_dir / "results.sqlite3"
    return common | {
        "result_backend": f"db+sqlite:///{file}",
        "database_engine_callback": _SqliteSetup(file.parent),
    }


class _SqliteSetup:
    """Prepares an engine of the embedded result store: its folder, write-ahead log and waiting time.

    WAL lets readers go on while one writes (sqlite.org/wal.html); ``synchronous=NORMAL`` keeps it
    consistent over a crash and may lose the last moment of results over a power failure.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, engine: Engine) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        event.listen(engine, "connect", _set_pragmas)


def _set_pragmas(connection: Any, _record: Any) -> None:
    connection.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
