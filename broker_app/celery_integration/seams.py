"""Seams: the private or fragile parts of other packages that we build on.

A release of Celery, kombu, py-amqp, billiard, pika or Python may rename any of them, and most would then fail
silently: a metric would not be counted, a drain not begin. So a worker checks them all when it starts, in about a
millisecond, and refuses to start if one is missing. A public name that is imported needs no entry here: its
absence is an ImportError.
"""

from __future__ import annotations

from broker_app.celery_integration.seam_check import Part, Seam, broken_seams
from broker_app.errors import SettingsError
from broker_app.settings import shown_in_one_line


def refuse_broken_seams(package: str | None = None) -> None:
    """Refuse to go on if a seam is broken.

    Args:
        package: The package to look at; None for all.

    Raises:
        SettingsError: Names each missing part, the package with its version, and the versions to install.
    """
    lines = broken_seams(SEAMS, package)
    if lines:
        with shown_in_one_line():
            raise SettingsError(lines)


def _seam(used_in: str, why: str, *parts: str) -> Seam:
    """Return a seam; each part is its target, then its names."""
    words = [part.split() for part in parts]
    return Seam(used_in, why, tuple(Part(target, tuple(names)) for target, *names in words))


SEAMS = (
    _seam(
        "worker/consumer.py",
        "our way into the pool and our loop take the place of Celery's; gevent keeps its connect time-out",
        "celery.worker.consumer.consumer:Consumer.__init__ on_task_request hasattr loop broker_connection_timeout",
    ),
    _seam(
        "worker/consumer.py",
        "leaves out native delayed delivery (found by its path), which would bind every queue to all delays",
        "celery.worker.consumer.consumer:Consumer.Blueprint default_steps",
        "celery.worker.consumer.delayed_delivery DelayedDelivery",
    ),
    _seam(
        "worker/consumer.py",
        "drops a green worker's connection for remote control together with the lost one",
        "celery.worker.consumer.control:Control.__init__ box is_green",
    ),
    _seam(
        "worker/green_loop.py",
        "ten times the throughput with gevent: the wait is skipped while amqheartbeat is 0",
        "celery.worker.loops:synloop amqheartbeat _quick_drain",
    ),
    _seam(
        "worker/cancelled_tasks.py",
        "cancellations outlive three hours",
        "celery.worker.state revoked",
        "celery.utils.collections:LimitedSet.__init__ maxlen expires",
    ),
    _seam(
        "worker/request.py",
        "every task gets our request, and every request comes to our admission",
        "celery.worker.strategy:default create_request_cls on_task_request Request",
    ),
    _seam(
        "worker/request.py",
        "Celery makes a class for each task, whose methods are wrapped; a withdrawn task is stopped",
        "celery.worker.request:create_request_cls execute_using_pool on_success revoked",
    ),
    _seam(
        "worker/request.py",
        "a task is dead-lettered, counted and settled exactly once, whatever ends it; its body is decoded once",
        "celery.worker.request:Request.__init__ _request_dict _body _content_type _content_encoding _decoded",
        "celery.worker.request:Request.__init__ _on_ack _eta",
        "celery.worker.request:Request _context _apply_result _already_cancelled",
        "celery.worker.request:Request _success_was_stored _retry_worker_lost _announce_revoked",
    ),
    _seam(
        "worker/pools/time_limits.py",
        "the signal task_postrun says FAILURE for a task over its hard limit, which raises Ignore",
        "celery.app.trace send_postrun",
        "celery.app.trace:build_tracer send_postrun",
    ),
    _seam(
        "celery_integration/tracer.py",
        "every task reports an outcome, even after SystemExit or a failing result store",
        "celery.worker.consumer.consumer:Consumer.update_strategies build_tracer __trace__",
        "celery.app.trace trace_ok_t report_internal_error",
        "billiard.common terminate_handler_fired",
    ),
    _seam(
        "celery_integration/task.py",
        "retries and time limits apply to the body alone; a task that calls itself is not taken for a start",
        "celery.app.task:Task request_stack run",
        "celery.app.task:Context _protected called_directly",
    ),
    _seam(
        "celery_integration/registry.py",
        "refuses a function with a yield, a Strategy of a task's own, and an async def with USE_FAST_LOCALS",
        "celery.app.base:Celery._task_from_fun _decorated_fun",
        "celery.app.autoretry:add_autoretry_behaviour _orig_run",
        "celery.app.task:Task Strategy",
        "celery.utils.threads _FastLocalStack LocalStack",
    ),
    _seam(
        "results/redis_consumer.py",
        "reads the store once Redis has confirmed a subscription, so that `get()` misses no result",
        "celery.backends.redis:ResultConsumer _drain_one _locked _pubsub _reconnect_pubsub reconnect_on_error",
        "celery.backends.redis:ResultConsumer.drain_events _drain_one",
        "celery.backends.redis:ResultConsumer._reconnect _reconnect_pubsub",
        "celery.backends.redis:ResultConsumer._reset_sync _pending_unsubscribe",
    ),
    _seam(
        "celery_integration/coroutine_task.py",
        "autoretry_for and pydantic=True work for an async def",
        "celery.app.autoretry:add_autoretry_behaviour _orig_run",
        "celery.app.base:pydantic_wrapper dump_kwargs",
        "celery.app.base:Celery._task_from_fun _dump_pydantic_arguments",
    ),
    _seam(
        "coroutines/green_loop.py",
        "with gevent, each greenlet has the running loop that a thread would have",
        "asyncio.events _get_running_loop _set_running_loop",
    ),
    _seam(
        "coroutines/context.py",
        "self.request and current_task are right in each coroutine",
        "celery._state _task_stack",
        "celery.utils.threads:_LocalStack __ident_func__",
        "celery.app.task:Task request_stack",
    ),
    _seam(
        "publishing/awaited.py",
        "eager tasks that overlap in threads leave the process as it was; an empty canvas finds its app",
        "celery._state _set_task_join_will_block task_join_will_block",
        "celery.local:Proxy _get_current_object",
    ),
    _seam(
        "publishing/publisher.py",
        "a confirmed task sends the event task-sent",
        "celery.app.amqp:AMQP _event_dispatcher",
    ),
    _seam(
        "results/sql.py",
        "waits for many results at once, and reads each as Celery does",
        "celery.backends.base:Backend _ensure_not_eager",
        "celery.backends.database:DatabaseBackend _decode_stored_result",
    ),
    _seam(
        "results/sql_chords.py",
        "the body of a chord is published with the retries of a callback",
        "celery.app.amqp:AMQP _retry_publish",
    ),
    _seam(
        "results/awaited.py",
        "a result that a coroutine awaits gets what the store said, as in Celery's own waits",
        "celery.result:AsyncResult.__init__ _cache",
        "celery.result:AsyncResult _maybe_set_cache maybe_throw",
    ),
    _seam(
        "celery_integration/pool_names.py",
        "Celery accepts -P asyncio",
        "celery.concurrency ALIASES",
        "celery.bin.worker WORKERS_POOL",
    ),
    _seam(
        "worker/pools/asyncio_pool.py",
        "coroutines run in the loop, plain tasks in threads; a lost connection drops unstarted tasks",
        "celery.concurrency.base:BasePool.__init__ app limit",
        "celery.concurrency.base:BasePool.apply_async on_apply",
        "celery.concurrency.base:apply_target accept_callback callback pid",
    ),
    _seam(
        "publishing/bulk/signature.py",
        "publish_many takes the options of the task's class",
        "celery.app.task:Task _get_exec_options",
    ),
    _seam(
        "celery_integration/configured.py",
        "settings load on first use, under a lock, as defaults",
        "celery.app.base:Celery _load_config",
        "celery.app.base:Celery.__init__ _conf _pending_defaults",
    ),
    _seam(
        "app.py",
        "result stores are fault-tolerant, and tasks are checked when they are registered",
        "celery.app.base:Celery _get_backend",
        "celery.app.base:Celery.__init__ _tasks",
    ),
    _seam(
        "publishing/single_send.py",
        "a plain call is published without Celery's own work for it, with the same errors",
        "kombu.connection:Connection _reraise_as_library_errors",
    ),
    _seam(
        "publishing/group.py",
        "the confirms of a group's members are awaited together, at the end of the block that publishes them",
        "celery.canvas:group._apply_tasks producer_or_acquire add_to_parent",
        "kombu.connection:Connection _reraise_as_library_errors",
    ),
    _seam(
        "celery_integration/amqp.py",
        "publishing is confirmed, and a paused queue is not consumed",
        "celery.app.amqp:AMQP.send_task_message _create_task_sender",
        "kombu.messaging:Consumer _consume_queues _basic_consume",
    ),
    _seam(
        "celery_integration/django.py",
        "closes the connections that a worker opens outside tasks",
        "celery.app.base:Celery.__init__ _fixups",
        "celery.fixups.django:DjangoFixup.worker_fixup _worker_fixup",
        "celery.fixups.django:DjangoWorkerFixup close_database",
    ),
    _seam(
        "worker/remote_control.py",
        "add_consumer refuses unknown queues in its reply",
        "celery.worker.control:Panel data meta",
    ),
    _seam(
        "worker/shutdown.py",
        "drains until a deadline on SIGTERM, whatever REMAP_SIGTERM says, and exits without waiting for threads",
        "celery.apps.worker:_shutdown_handler worker sig how should_stop",
        "celery.worker.worker:WorkController _send_worker_shutdown",
        "celery.concurrency.prefork:TaskPool.on_start _pool",
    ),
    _seam(
        "worker/pools/thread_pool.py",
        "tasks run without a future for each, and a stuck thread is replaced",
        "celery.concurrency.base:BasePool.apply_async on_apply",
        "celery.concurrency.thread:TaskPool.__init__ executor",
        "celery.concurrency.thread:TaskPool.on_apply callback accept_callback",
        "concurrent.futures.thread:ThreadPoolExecutor.__init__ _work_queue _threads _max_workers _shutdown_lock",
        "concurrent.futures.thread:ThreadPoolExecutor._adjust_thread_count _idle_semaphore acquire _max_workers",
        "concurrent.futures.thread:_worker run work_queue",
    ),
    _seam(
        "worker/pools/entry.py",
        "a greenlet waits for a free slot, not the loop, which has to send heartbeats",
        "celery.concurrency.gevent:TaskPool.on_start _pool",
        "gevent.pool:Pool full wait_available",
    ),
    _seam(
        "worker/consumers.py",
        "consumers that the broker cancelled are found and consumed again, without a reconnect",
        "kombu.messaging:Consumer.__init__ _active_tags",
        "kombu.messaging:Consumer.queues _queues",
        "amqp.channel:Channel.__init__ callbacks cancel_callbacks",
    ),
    _seam(
        "worker/prefetch.py",
        "a worker without a given prefetch adapts it",
        "celery.worker.worker:WorkController.setup_instance options",
    ),
    _seam(
        "worker/acknowledger.py",
        "acknowledges in batches, returns messages without counting a failure, decodes bodies once",
        "kombu.message:Message.__init__ _state _decoded_cache",
    ),
    _seam(
        "worker/body_decoder.py",
        "a user's own JSON decoder is respected",
        "kombu.serialization:SerializerRegistry.__init__ _decoders",
    ),
    _seam(
        "wire/connection.py",
        "hosts are verified by their own names, closing takes a bounded time, passwords come from a file",
        "kombu.connection:Connection _establish_connection _close _init_params _info",
        "kombu.connection:Connection.__init__ _initial_params cycle failover_strategy alt",
    ),
    _seam(
        "metrics/custom.py",
        "copies the project's own metrics without running its collectors",
        "prometheus_client.registry:CollectorRegistry.__init__ _collector_to_names",
        "prometheus_client.metrics:Gauge.__init__ _multiprocess_mode",
    ),
    _seam(
        "celery_integration/mailbox.py",
        "a worker comes back although a dead cluster node keeps its control queue locked",
        "kombu.pidbox:Mailbox get_queue",
    ),
    _seam(
        "wire/frame_reader.py",
        "reads all frames at once, where py-amqp makes ten system calls for each message",
        "amqp.transport:TCPTransport._read _quick_recv _read_buffer",
        "amqp.abstract_channel:AbstractChannel.dispatch_method _callbacks",
        "amqp.connection:Connection on_inbound_frame bytes_recv bytes_sent",
    ),
    _seam(
        "wire/confirm_channel.py",
        "confirms are matched to their messages",
        "amqp.channel:Channel.__init__ events",
        "amqp.channel:Channel._on_basic_ack basic_ack",
    ),
    _seam(
        "wire/field_tables.py",
        "a message with an undecodable header or routing key becomes a dead letter, not the end of its worker",
        "amqp.serialization PROPERTY_CLASSES _read_item decode_properties_basic",
        "amqp.abstract_channel loads",
        "amqp.abstract_channel:AbstractChannel.dispatch_method loads",
    ),
    _seam(
        "messages/pika_floats.py",
        "dead letters keep their floats and undecodable headers when they are moved",
        "pika.data decode_value encode_value decode_table",
        "pika.spec:BasicProperties.decode decode_table",
        "pika.spec:BasicProperties.encode encode_table",
    ),
    _seam(
        "messages/scan.py",
        "messages that are in flight when a scan ends are accepted",
        "pika.channel:Channel.__init__ _cancelled",
    ),
)
