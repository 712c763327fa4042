"""Types of the commands' options."""

from __future__ import annotations

import argparse
from datetime import timedelta

from walex_django import units


def age(text: str) -> timedelta:
    """Return an age, such as ``90m``; see `limits.parse_age`."""
    try:
        return units.parse_age(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size(text: str) -> int:
    """Return a number of bytes, such as ``1GB``; see `limits.parse_size`."""
    try:
        return units.parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def interval(text: str) -> float:
    """Return some seconds, at least a tenth of one."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0.1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds: write such as 2 or 0.5"
        )
    return seconds


def port(text: str) -> int:
    """Return the number of a TCP port; 0 lets the system choose."""
    if not (text.isascii() and text.isdigit()) or int(text) > 65_535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no port: write a number up to 65535, such as 9187"
        )
    return int(text)
