"""What holds for every suite of the repository."""

from hypothesis import HealthCheck, settings

# Machines are noisy: a slow example is no failure. No example is ever asserted to be fast.
settings.register_profile("noisy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("noisy")

pytest_plugins = ["tests.postgresql_server"]
