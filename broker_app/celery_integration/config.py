"""Celery configuration: derived from our settings, with the reason for each difference from Celery's defaults."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from broker_app.queues import NameRouter, Names, work_queue

if TYPE_CHECKING:
    from broker_app.settings import Settings, TlsSettings


class AutoPrefetch(int):
    """The prefetch multiplier of a worker that may adapt its prefetch; to Celery it is a number."""


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Return Celery's configuration; a user's own configuration takes precedence."""
    return _broker(settings) | _routing(settings) | _consuming() | _results(settings)


def _broker(settings: Settings) -> dict[str, Any]:
    url = settings.broker_url.get_secret_value()
    return {
        "broker_url": url,
        "broker_use_ssl": _verified_tls(settings.tls) if url.startswith("amqps") else False,
        # With Celery's default of 120 s, a dead peer keeps its prefetched messages for minutes.
        "broker_heartbeat": settings.heartbeat_seconds,
        "broker_heartbeat_checkrate": 2,
        "broker_connection_timeout": settings.publish.connect_timeout_seconds,
        "broker_connection_retry_on_startup": True,
        # A worker retries forever; only its operator stops it.
        "broker_connection_max_retries": None,
        # Otherwise a half-open connection ends the worker: its control queue is still locked (405).
        "broker_channel_error_retry": True,
        "broker_pool_limit": settings.publish.pool_limit,
        # A blocked broker stops reading; without a time-out, sending a large message would hang.
        "broker_transport_options": {"write_timeout": settings.publish.timeout_seconds},
    }


def _verified_tls(tls: TlsSettings) -> dict[str, Any]:
    """Return TLS options that verify the certificate chain and the host name.

    py-amqp replaces the None in ``server_hostname`` by the URL's host; plain `True` would not check the host name.
    """
    files = {"ca_certs": tls.ca_certificates, "certfile": tls.certificate, "keyfile": tls.certificate_key}
    named = {option: str(file) for option, file in files.items() if file is not None}
    return {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None, **named}


def _routing(settings: Settings) -> dict[str, Any]:
    names, table = Names(settings.prefix), settings.routing_table()

    return {
        "task_queues": tuple(work_queue(spec) for spec in table),
        "task_default_queue": table.queue(table.default).name,
        "task_default_exchange": names.tasks,
        "task_default_exchange_type": "topic",
        "task_default_routing_key": table.queue(table.default).broker_name,
        "task_create_missing_queues": False,
        "task_routes": (NameRouter(table),),
        "control_exchange": f"{settings.prefix}celery",
        "event_exchange": f"{settings.prefix}celeryev",
        "event_queue_prefix": f"{settings.prefix}celeryev",
    }


def _consuming() -> dict[str, Any]:
    return {
        "worker_consumer": "broker_app.worker.consumer:Consumer",
        # With early acknowledgement, tasks that run while their worker is killed are lost.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A task that failed after its last retry is rejected, and so dead-lettered.
        "task_acks_on_failure_or_timeout": False,
        "worker_prefetch_multiplier": AutoPrefetch(1),
        # After a lost connection, running tasks are redelivered and held; they need their share of the prefetch.
        "worker_enable_prefetch_count_reduction": False,
        "task_track_started": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "enable_utc": True,
    }


def _results(settings: Settings) -> dict[str, Any]:
    common = {
        "result_expires": settings.result_expires_seconds,
        "result_extended": True,
        # A producer that never reads a result does not open the result backend.
        "database_create_tables_at_setup": False,
    }
    if settings.result_url is not None:
        return common | {"result_backend": _backend_url(settings.result_url.get_secret_value())}
    return common | {"result_backend": _backend_url(f"db+sqlite:///{settings.state_dir / 'results.sqlite3'}")}


def _backend_url(url: str) -> str:
    """Rewrite a ``db+…`` URL so that Celery loads our backend for it; return other URLs unchanged.

    The backend is named rather than imported: SQLAlchemy takes a second to load, and many producers never use it.
    """
    scheme = "db+"
    return f"broker_app.results.sql:DatabaseBackend+{url.removeprefix(scheme)}" if url.startswith(scheme) else url
