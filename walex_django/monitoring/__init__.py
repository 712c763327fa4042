"""The state of streams: status, health, metrics and the listeners' reports."""
