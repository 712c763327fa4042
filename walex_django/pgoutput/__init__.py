"""The logical replication protocol, free of I/O and of Django."""
