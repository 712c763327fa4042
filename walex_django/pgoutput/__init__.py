"""The protocol of logical replication, without I/O and without Django."""
