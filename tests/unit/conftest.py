"""Hypothesis without deadlines: on a shared machine an example's time proves nothing."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("overread", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("overread")
