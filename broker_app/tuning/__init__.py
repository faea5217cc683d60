"""Tuning: choose pool and concurrency by measurement."""

from broker_app.tuning.limits import NodeLimits
from broker_app.tuning.load import SampleCall, TaskLoad, parse_profile
from broker_app.tuning.measurement import Measurement
from broker_app.tuning.sweep import SweepPlan, TuningResult, tune
from broker_app.tuning.trial import TrialEffort

__all__ = [
    "Measurement",
    "NodeLimits",
    "SampleCall",
    "SweepPlan",
    "TaskLoad",
    "TrialEffort",
    "TuningResult",
    "parse_profile",
    "tune",
]
