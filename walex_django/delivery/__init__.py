"""Events to receivers: dispatch, transactions, retries, parking, replay."""
