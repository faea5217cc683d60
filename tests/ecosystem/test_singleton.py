"""celery-singleton and celery-once: duplicates are not published, and a retry is not taken for one."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projects import Project

SETTINGS = """
[queues.default]
[queues.lopri]
[queues.lopri.retry]
max_retries = 2
first_seconds = 0.2
jitter = false
"""
TASKS = '''
import time
from pathlib import Path

from celery_once import QueueOnce
from celery_singleton import Singleton

from broker_app import BrokerApp

LOCKS = Path("locks.d")


class FileBackend:
    """Locks of celery-singleton as files."""

    def __init__(self, *_, **__):
        LOCKS.mkdir(exist_ok=True)

    def lock(self, lock, task_id, expiry=None):
        try:
            with (LOCKS / lock).open("x") as file:
                file.write(task_id)
        except FileExistsError:
            return False
        return True

    def unlock(self, lock):
        (LOCKS / lock).unlink(missing_ok=True)

    def get(self, lock):
        return (LOCKS / lock).read_text()


app = BrokerApp("locks")
app.conf.singleton_backend_class = FileBackend
app.conf.singleton_backend_url = "unused"
app.conf.ONCE = {"backend": "celery_once.backends.File", "settings": {"location": "once.d"}}


def work(go):
    while not Path(go).exists():
        time.sleep(0.05)
    with Path(go).open("a") as file:
        file.write("run\\n")
    if len(Path(go).read_text().splitlines()) < 3:
        raise ConnectionError("not yet")
    return "done"


single = app.task(base=Singleton, name="locks.single")(work)
once = app.task(base=QueueOnce, name="locks.once", once={"graceful": True})(work)
'''
PUBLISH = """
import json
import sys
from pathlib import Path
import locks

task, go = getattr(locks, sys.argv[1]), sys.argv[2]
results = [task.apply_async((go,), queue="lopri", countdown=0.2), task.apply_async((go,), queue="lopri")]
many = locks.app.publish_many([task.s(go).set(queue="lopri")] * 2)
ids = [result.id for result in results] + [item.task_id for item in many]
Path(go).touch()
answer = results[0].get(timeout=60, interval=0.05)
print(json.dumps({"others": ids[1:], "first": ids[0], "answer": answer, "runs": Path(go).read_text().split()}))
"""


@pytest.fixture(scope="module", params=["threads", "prefork", "gevent"])
def shop(request: pytest.FixtureRequest, project: Project) -> Iterator[Project]:
    """Return a project whose worker runs; its queue `lopri` retries twice."""
    project.write(SETTINGS)
    project.put("locks.py", TASKS)
    with project.worker("locks", pool=request.param):
        yield project


@pytest.mark.parametrize("task", ["single", "once"])
def test_a_duplicate_is_not_published_and_a_retry_is(shop: Project, task: str, request: Any) -> None:
    """Four calls make one task; it fails twice, is retried by its queue under its own id, and succeeds."""
    go = f"go-{request.node.name}"
    done = shop.run(sys.executable, "-c", PUBLISH, task, go)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["answer"] == "done"
    assert found["runs"] == ["run"] * 3
    duplicate = found["first"] if task == "single" else None
    assert [identity or None for identity in found["others"]] == [duplicate] * 3
