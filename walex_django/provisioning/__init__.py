"""What a database lacks of what a stream needs, and how to provide it."""
