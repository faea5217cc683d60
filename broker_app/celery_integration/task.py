"""Task: the class added in front of every task's own class, with our `Request` and the queue's default retries."""

from __future__ import annotations

import inspect
import types
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NoReturn

from celery.app import task as celery_task
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.imports import symbol_by_name

from broker_app.celery_integration import coroutine_task
from broker_app.celery_integration.task_body import Replaced, run_body
from broker_app.errors import RoutingError, Unawaited
from broker_app.publishing import trace_context
from broker_app.publishing.sent import noting_sent
from broker_app.queues import Backoff

if TYPE_CHECKING:
    from celery.app.task import Context

    from broker_app.queues import QueueSpec

QUEUE_KEY = "queue"
"""Key in a request's ``delivery_info`` under which a worker stores the queue's name in the settings."""

_CELERYS = "celery."
"""Prefix of the names of Celery's own tasks, which define their own retries."""

_BEGUN = "_broker_app_begun"


class Task(celery_task.Task):
    """First in the MRO of each registered task, whatever the task's own base class (see `in_front_of`).

    Applies the time limits, and retries as the queue's settings say. The task's own retries take precedence:
    ``self.retry()``, ``autoretry_for``, or its attribute ``backoff``, as in
    ``@app.task(backoff=Backoff(max_retries=5))``; `Backoff()` never retries. Errors in ``throws`` and
    ``dont_autoretry_for`` are not retried.

    Attributes:
        has_own_call: Whether the task's own class defines ``__call__``, which is then called instead of ``run``.
        is_async: Whether its function is ``async def``. A worker then runs the coroutine that a call returns.
    """

    Request = "broker_app.worker.request:Request"

    has_own_call = False
    is_async = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; in a worker, an exception causes a retry until the retries are used up.

        Called directly, an ``async def`` task returns its coroutine.

        Raises:
            Unawaited: The task returned an awaitable, and is not ``async def``.
        """
        request = self.request_stack.top
        if request is None or request.called_directly or not self._begins(request):
            answer = super().__call__(*args, **kwargs)
            return coroutine_task.run_for_celery(self, answer, args, kwargs) if self.is_async else answer
        body = partial(super().__call__ if self.has_own_call else self.run, *args, **kwargs)
        trace_context.enter(request)
        try:
            answer = run_body(partial(coroutine_task.run_body, self, request, body) if self.is_async else body)
        except (Ignore, Reject, Retry):
            raise
        except BaseException as error:
            # Celery does not catch MemoryError or exceptions outside `Exception`: with threads the task then never
            # reports an outcome, and with prefork the worker or its process ends.
            from broker_app.celery_integration.tracer import as_failure, is_from_outside  # noqa: PLC0415 - not in producers

            if is_from_outside(error, request.id):
                raise
            queue = (request.delivery_info or {}).get(QUEUE_KEY, "")
            failure = as_failure(error, self.name, request.id, queue)
            if failure is not error:
                raise failure from error
            backoff = self._backoff_for(failure, request)
            if backoff is None or request.retries >= backoff.max_retries:
                raise
            self._try_again(failure, backoff.wait(request.retries), backoff.max_retries)
        if answer is not None and inspect.isawaitable(answer):
            raise self._unawaited(answer, request)
        return answer

    def __getattr__(self, name: str) -> Any:
        """Return what the app's lifespan yielded, as ``state``; an attribute of the task's class comes first."""
        lifespans = getattr(self.app, "lifespans", None) if name == "state" else None
        if lifespans is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return lifespans.state()

    def retry(self, *args: Any, **options: Any) -> Any:
        """Retry, as Celery does; for a task that calls this, the queue's default retries do not apply."""
        self.request.has_own_retries = True
        return super().retry(*args, **options)

    def signature_from_request(self, request: Context | None = None, *args: Any, **options: Any) -> Any:
        """Return the signature of a retry; a coroutine's is published after it has ended, outside the loop."""
        signature = super().signature_from_request(request, *args, **options)
        return coroutine_task.deferring(signature, request or self.request) if self.is_async else signature

    @property
    def _orig_run(self) -> Any:
        """The task's own function, which Celery's wrapper for ``autoretry_for`` calls."""
        return coroutine_task.own_function(self)

    @_orig_run.setter
    def _orig_run(self, function: Any) -> None:
        self.__dict__[coroutine_task.OWN_FUNCTION] = function

    def on_replace(self, sig: Any) -> Any:
        """Publish the task that replaces this one, as Celery does.

        Raises:
            Replaced: Always in a worker; the new task continues the chord, if this one is in a chord.
        """
        if self.is_async and coroutine_task.defer(self.request, sig.delay):
            raise Replaced("Replaced by new task")
        try:
            return super().on_replace(sig)
        except Ignore as error:
            raise Replaced(*error.args) from None

    def _begins(self, request: Context) -> bool:
        """Mark a delivered task as started; return False if it already was: the task then calls itself directly.

        A task with its own ``__call__`` needs a separate mark: Celery sets ``_protected`` when that calls
        ``super()``.
        """
        if request._protected or getattr(request, _BEGUN, False):  # noqa: SLF001 - Celery's own mark
            return False
        setattr(request, _BEGUN if self.has_own_call else "_protected", 1)
        return True

    def _unawaited(self, answer: Any, request: Context) -> Unawaited:
        if inspect.iscoroutine(answer):
            answer.close()
        queue = (request.delivery_info or {}).get(QUEUE_KEY, "")
        reason = f"it returned a {type(answer).__name__}, which no worker awaits"
        return Unawaited(self.name, request.id, queue, reason)

    def _try_again(self, error: Exception, countdown: float, max_retries: int) -> NoReturn:
        raise super().retry(exc=error, countdown=countdown, max_retries=max_retries)

    def _backoff_for(self, error: Exception, request: Context) -> Backoff | None:
        """Return the retries to apply after an error, None if we must not retry."""
        given_up = (*(self.throws or ()), *getattr(self, "dont_autoretry_for", ()))
        retries_itself = getattr(request, "has_own_retries", False) or getattr(self, "autoretry_for", ())
        if retries_itself or isinstance(error, given_up) or self.name.startswith(_CELERYS):
            return None
        own = getattr(self, "backoff", None)
        if isinstance(own, Backoff):  # in a class written for plain Celery, any other value has another meaning
            return own
        return self._backoff_of_queue(request)

    def _backoff_of_queue(self, request: Context) -> Backoff | None:
        name = (request.delivery_info or {}).get(QUEUE_KEY)
        if name is None:
            return None
        try:
            spec: QueueSpec = self.app.settings.routing_table().queue(name)
        except RoutingError:
            return None
        return spec.retry


def in_front_of(task: celery_task.Task, *, is_async: bool = False) -> type[Task]:
    """Return a copy of a task's class with `Task` in front.

    A custom ``Request`` class stays in effect, as if it derived from ours.

    Args:
        task: The task.
        is_async: See `Task`.
    """
    own, asked = type(task), task.Request
    namespace: dict[str, Any] = {
        "__module__": own.__module__,
        "__qualname__": own.__qualname__,
        "__doc__": own.__doc__,
        "app": vars(celery_task.Task)["app"],  # as bound; the class of a task made by another app has that app
        "has_own_call": defines_call(own),
        "is_async": is_async,
    }
    if own.apply_async is not celery_task.Task.apply_async:
        namespace["apply_async"] = _apply_async
    if asked != celery_task.Task.Request:
        namespace["Request"] = property(lambda _: _request_class(asked))  # lazy: producers never import it
    return types.new_class(own.__name__, (Task, own), exec_body=lambda body: body.update(namespace))


def _apply_async(
    self: Any, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
) -> Any:
    """Publish as the task's own class does; publish a retry even if that class drops it as a duplicate.

    celery-singleton drops it, because the run that retries holds the lock. The task would be lost.
    """
    publish = super(Task, self).apply_async
    if not options.get("retries") or self.app.conf.task_always_eager:
        return publish(args, kwargs, task_id=task_id, **options)
    with noting_sent() as sent:
        result = publish(args, kwargs, task_id=task_id, **options)
    if task_id in sent:
        return result
    return celery_task.Task.apply_async(self, args, kwargs, task_id=task_id, **options)


def defines_call(cls: type) -> bool:
    """Return whether a task class overrides Celery's ``__call__``."""
    return next(one for one in cls.__mro__ if "__call__" in vars(one)) is not celery_task.Task


@cache
def _request_class(asked: Any) -> Any:
    own, ours = symbol_by_name(asked), symbol_by_name(Task.Request)
    return own if issubclass(own, ours) else type(own.__name__, (own, ours), {"__module__": own.__module__})
