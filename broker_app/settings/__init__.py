"""Settings: a frozen model that `load_settings` reads from the settings file, the environment and the defaults."""

from broker_app.settings.celery_environment import refuse_celery_environment
from broker_app.settings.fleet import DEFAULT_DRAIN_SECONDS, FleetSettings
from broker_app.settings.load import broker_url_from_environment, config_path, load_settings
from broker_app.settings.metrics import MetricsSettings
from broker_app.settings.model import Settings
from broker_app.settings.problems import CONFIG_VARIABLE, ENV_PREFIX
from broker_app.settings.publish import FetchSettings, PublishSettings, TlsSettings
from broker_app.settings.queue import QueueSettings, RetrySettings
from broker_app.settings.refusal import shown_in_one_line
from broker_app.settings.salvage import salvage_settings

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_DRAIN_SECONDS",
    "ENV_PREFIX",
    "FetchSettings",
    "FleetSettings",
    "MetricsSettings",
    "PublishSettings",
    "QueueSettings",
    "RetrySettings",
    "Settings",
    "TlsSettings",
    "broker_url_from_environment",
    "config_path",
    "load_settings",
    "refuse_celery_environment",
    "salvage_settings",
    "shown_in_one_line",
]
