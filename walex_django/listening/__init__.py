"""Keeping streams alive: the server's messages to events, until it is stopped."""
