"""Replication connections, slots and publications on psycopg, without Django."""
