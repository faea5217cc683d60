"""Fixtures of the tests against real packages that are often used with Celery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fleets import SETTINGS
from projects import Project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker_app import BrokerApp


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, vhost_url: str) -> Project:
    """Return a project folder that the tests of a module share."""
    folder = tmp_path_factory.mktemp("project")
    made = Project(folder, folder / "state", vhost_url)
    made.write(SETTINGS)
    return made


@pytest.fixture(scope="module")
def client(project: Project) -> Iterator[BrokerApp]:
    """Return an app of this process that publishes to the project's workers and reads their results."""
    app = project.client()
    yield app
    app.close()
