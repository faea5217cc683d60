"""The threads of a worker's pool: each task runs once, and whatever comes of it, the thread goes on."""

from __future__ import annotations

import threading

from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool
from celery.exceptions import TaskRevokedError

from broker_app.worker.pools.thread_pool import ThreadExecutor, lighten

SECONDS = 60.0


def test_as_many_run_at_once_as_there_are_threads() -> None:
    """All threads are used before a task waits, and no more are started."""
    threads, together = ThreadExecutor(3), threading.Barrier(4)
    for _ in range(3):
        threads.call(together.wait, SECONDS)
    together.wait(SECONDS)
    for _ in range(9):
        threads.call(int)
    threads.shutdown()
    assert len(threads._threads) == 3


def test_a_thread_outlives_what_a_task_raises() -> None:
    """Neither an error nor an exit takes a slot away."""
    threads, has_run = ThreadExecutor(1), threading.Event()

    def fail(error: BaseException) -> None:
        raise error

    for error in (ValueError("an error"), SystemExit(3), TaskRevokedError("withdrawn")):
        threads.call(fail, error)
    threads.call(has_run.set)
    assert has_run.wait(SECONDS)
    threads.shutdown()


def test_what_was_not_begun_is_dropped_at_the_end() -> None:
    """A shutdown that cancels runs nothing more, and the threads end."""
    threads, begun, end, ran = ThreadExecutor(1), threading.Event(), threading.Event(), list[int]()

    def hold() -> None:
        begun.set()
        end.wait(SECONDS)

    threads.call(hold)
    threads.call(ran.append, 1)
    assert begun.wait(SECONDS)
    threads.shutdown(wait=False, cancel_futures=True)
    end.set()
    threads.shutdown()
    assert ran == []


def test_celerys_pool_answers_as_before() -> None:
    """A thread pool accepts, runs and answers; a pool of another kind is left alone."""
    pool, answers, has_answered = TaskPool(limit=2), list[object](), threading.Event()
    lighten(pool)
    pool.start()

    def answer(result: int) -> None:
        answers.append(result)
        has_answered.set()

    pool.apply_async(max, (1, 2), {}, callback=answer, accept_callback=lambda *_: answers.append("accepted"))
    assert has_answered.wait(SECONDS)
    pool.stop()
    assert answers == ["accepted", 2]
    assert pool.info["threads"] == 1
    solo = SoloPool(limit=1)
    lighten(solo)
    assert not hasattr(solo, "executor")


def test_a_thread_that_is_lost_is_replaced() -> None:
    """When a stuck task keeps its thread, and one more is allowed, the next task gets that one."""
    threads, begun, end, has_run = ThreadExecutor(1), threading.Event(), threading.Event(), threading.Event()
    for _ in range(5):
        threads.call(int)

    def hold() -> None:
        begun.set()
        end.wait(SECONDS)

    threads.call(hold)
    assert begun.wait(SECONDS)
    threads._max_workers += 1
    threads.call(has_run.set)
    assert has_run.wait(SECONDS)
    end.set()
    threads.shutdown()
