"""Running streams: from the server's messages to events, with reconnects."""
