"""Delivery of events to receivers: dispatch, transactions, retries, parking, replay."""
