"""Stream status, health checks, metrics and the listeners' reports."""
