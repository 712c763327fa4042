"""Argument types of the management commands."""

from __future__ import annotations

import argparse
import math
from datetime import timedelta

from walex_django import units


def age(text: str) -> timedelta:
    """Parse an age such as ``90m``; see `units.parse_age`."""
    try:
        return units.parse_age(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size(text: str) -> int:
    """Parse a number of bytes such as ``1GB``; see `units.parse_size`."""
    try:
        return units.parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """Parse a number such as ``10``; see `units.parse_count`."""
    try:
        return units.parse_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def interval(text: str) -> float:
    """Parse an interval in seconds: at least a tenth of a second, at most a day."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0.1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a valid interval: use a number of seconds from 0.1 to"
            " 86400, such as 2 or 0.5"
        )
    return seconds


def port(text: str) -> int:
    """Parse the number of a TCP port; with 0, the operating system chooses one."""
    if not (text.isascii() and text.isdigit()) or int(text) > 65_535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a valid port: use a number from 0 to 65535, such as 9187"
        )
    return int(text)


def seconds(text: str) -> float:
    """Parse a duration in seconds: more than zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a valid duration: use a positive number of seconds, such"
            " as 60"
        )
    return value
