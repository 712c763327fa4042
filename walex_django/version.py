"""The version of walex_django."""

__version__ = "0.1.0"
