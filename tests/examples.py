"""Hypothesis profiles: all examples of a test, or a share of them."""

from __future__ import annotations

from hypothesis import settings

FULL, QUICK = 100, 30

# Examples can be slow on a busy machine.
settings.register_profile("full", max_examples=FULL, deadline=None)
settings.register_profile("quick", max_examples=QUICK, deadline=None)


def examples(number: int) -> int:
    """
    Return the number of examples that the current profile runs.

    Args:
        number: The number for ``--hypothesis-profile=full``.
    """
    assert settings.default
    return max(2, number * settings.default.max_examples // FULL)


def load_quick() -> None:
    """Make a share of the examples the default."""
    settings.load_profile("quick")
