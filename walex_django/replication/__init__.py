"""Replication connections, slots and publications, on psycopg and without Django."""
