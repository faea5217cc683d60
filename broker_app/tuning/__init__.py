"""Choosing pool and slots by measurement."""

from broker_app.tuning.limits import Limits
from broker_app.tuning.load import Call, Load, parse_profile
from broker_app.tuning.measurement import Point
from broker_app.tuning.sweep import Plan, Tuning, tune
from broker_app.tuning.trial import Effort

__all__ = ["Call", "Effort", "Limits", "Load", "Plan", "Point", "Tuning", "parse_profile", "tune"]
