"""The Django project of docs/how-to/django.md, with a database and a model added."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from projects import Project

DATABASE = "shop.sqlite3"

SETTINGS = f"""
from pathlib import Path

SECRET_KEY = "secret"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(__file__).parents[1] / "{DATABASE}",
        "OPTIONS": {{"timeout": 60, "transaction_mode": "IMMEDIATE"}},
    }}
}}
"""
MODELS = """
from django.db import models


class Order(models.Model):
    state = models.TextField()
"""


def put_shop(project: Project, *, apps: str = "", tasks: str = "") -> None:
    """Write the project.

    Args:
        project: Where it is written.
        apps: Another installed app.
        tasks: Code that is added to the tasks.
    """
    project.put_document("django.md")
    project.put("orders/__init__.py", "")
    project.put("orders/models.py", MODELS)
    more = f'INSTALLED_APPS += ["{apps}"]\n' if apps else ""
    for file, text in (("shop/settings.py", SETTINGS + more), ("orders/tasks.py", tasks)):
        path = project.folder / file
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")
