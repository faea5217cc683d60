"""The base class of the app's tasks: delivered as our `Request`, and retried as its queue says."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from celery.app import task as celery_task
from celery.exceptions import Ignore, Reject, Retry

from broker_app.errors import OutOfMemory, RoutingError
from broker_app.metrics import tracing

if TYPE_CHECKING:
    from celery.app.task import Context

    from broker_app.queues import Backoff, QueueSpec

QUEUE_KEY = "queue"
"""Where a worker notes in a request's ``delivery_info`` which queue it came from, by the settings' name."""

_CELERYS = "celery."
"""The names of Celery's own tasks begin with it; they retry by themselves."""


class Task(celery_task.Task):
    """Celery's task, with the retries of the queue that it was taken from as its default.

    A task's own ways of retrying come first: ``self.retry()``, ``autoretry_for``, or `backoff`.

    Attributes:
        backoff: The task's own back-off, ``@app.task(backoff=Backoff(max_retries=5))``; None for its queue's.
            `Backoff()` retries nothing.

    Errors in ``throws`` and ``dont_autoretry_for`` are not retried.
    """

    Request = "broker_app.worker.request:Request"

    backoff: Backoff | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; in a worker, an exception is a retry while there is one left."""
        request = self.request_stack.top
        if request is None or request.called_directly or request._protected:  # noqa: SLF001 - as Celery's own
            return super().__call__(*args, **kwargs)
        request._protected = 1  # noqa: SLF001 - what it calls from now on is called directly
        tracing.enter(request)
        try:
            limits = self.app.limits
            if limits is None:
                return self.run(*args, **kwargs)
            return limits.run(partial(self.run, *args, **kwargs))
        except (Ignore, Reject, Retry):
            raise
        except MemoryError as error:
            # Celery lets it through: threads then never answer for the task, and prefork ends its whole worker.
            queue = (request.delivery_info or {}).get(QUEUE_KEY, "")
            raise OutOfMemory(self.name, request.id, queue, f"it ran out of memory: {error}") from error
        except Exception as error:
            backoff = self._backoff_for(error, request)
            if backoff is None or request.retries >= backoff.max_retries:
                raise
            self._try_again(error, backoff.wait(request.retries), backoff.max_retries)

    def retry(self, *args: Any, **options: Any) -> Any:
        """Retry, as Celery's; a task that calls it retries by itself, and its queue's default stands back."""
        self.request.has_own_retries = True
        return super().retry(*args, **options)

    def _try_again(self, error: Exception, countdown: float, max_retries: int) -> NoReturn:
        raise super().retry(exc=error, countdown=countdown, max_retries=max_retries)

    def _backoff_for(self, error: Exception, request: Context) -> Backoff | None:
        """Return how to retry after an error, None if it is not for us to."""
        given_up = (*(self.throws or ()), *getattr(self, "dont_autoretry_for", ()))
        retries_itself = getattr(request, "has_own_retries", False) or getattr(self, "autoretry_for", ())
        if retries_itself or isinstance(error, given_up) or self.name.startswith(_CELERYS):
            return None
        if self.backoff is not None:
            return self.backoff
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
