"""How many examples Hypothesis tries: a share of them unless all are asked for."""

from __future__ import annotations

from hypothesis import settings

FULL, QUICK = 100, 30

# On a busy machine an example may take any time.
settings.register_profile("full", max_examples=FULL, deadline=None)
settings.register_profile("quick", max_examples=QUICK, deadline=None)


def examples(number: int) -> int:
    """
    Return the share of a test's examples that the profile runs.

    Args:
        number: How many ``--hypothesis-profile=full`` runs.
    """
    assert settings.default
    return max(2, number * settings.default.max_examples // FULL)


def load_quick() -> None:
    """Let the default be a share of the examples."""
    settings.load_profile("quick")
