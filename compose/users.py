"""Makes the broker's four users with the least rights, as `broker-app topology permissions` prints them.

It runs in the service `deploy`, before anything else of ours. What is there already is set anew: a password that
was changed in compose/.env, a right that a new queue needs.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import time
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

API = "http://rabbitmq:15672/api"
START_SECONDS = 60.0
PAUSE_SECONDS = 1.0
EXAMPLE = "change-me"


def main() -> None:
    """Make the users; the passwords are in the environment, as DEPLOY_PASSWORD and so on."""
    check_passwords()
    from broker_app import app  # noqa: PLC0415 - it reads the URL that has just been checked
    from broker_app.broker.permissions import roles, vhost_of  # noqa: PLC0415

    vhost = quote(vhost_of(app), safe="")
    for role in roles(app):
        put(f"users/{role.name}", {"password": os.environ[f"{role.name.upper()}_PASSWORD"], "tags": role.tag})
        rights = {"configure": role.configure, "write": role.write, "read": role.read}
        put(f"permissions/{vhost}/{role.name}", rights)
        print(f"user {role.name}: {role.purpose}")


def check_passwords() -> None:
    """Refuse what cannot stand in a URL, and name what was never changed."""
    passwords = {name: value for name, value in os.environ.items() if name.endswith("_PASSWORD")}
    refused = [name for name, value in passwords.items() if not re.fullmatch(r"[A-Za-z0-9_.~-]+", value)]
    if refused:
        named = ", ".join(refused)
        sys.exit(f"compose/.env: {named}: expected letters, digits, '_', '.', '~' and '-' only: it is in a URL")
    if unchanged := [name for name, value in passwords.items() if value == EXAMPLE]:
        print(f"warning: everybody knows {', '.join(unchanged)}: change them in compose/.env", file=sys.stderr)


def put(path: str, body: dict[str, str]) -> None:
    """Set what is at a path of the management API, as its administrator; wait for an API that is starting."""
    login = f"{os.environ['RABBITMQ_USER']}:{os.environ['RABBITMQ_PASSWORD']}"
    headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    request = Request(f"{API}/{path}", json.dumps(body).encode(), headers, method="PUT")  # noqa: S310 - our own broker
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            build_opener(ProxyHandler({})).open(request, timeout=10).close()
        except HTTPError as error:
            sys.exit(f"deploy: {path}: expected it to be set, got {error.code} {error.reason}; {advice(error)}")
        except (OSError, HTTPException) as error:
            if time.monotonic() > deadline:
                sys.exit(f"deploy: {API}: expected an answer within {START_SECONDS:g} s, got: {error}")
            time.sleep(PAUSE_SECONDS)
        else:
            return


def advice(error: HTTPError) -> str:
    """Return what may cure a refusal."""
    if error.code == 401:  # noqa: PLR2004 - HTTP: who are you
        return "the broker keeps the administrator that it was first started with: give it back its password"
    return "look at the log of the service rabbitmq"


if __name__ == "__main__":
    main()
