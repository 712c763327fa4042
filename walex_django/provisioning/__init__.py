"""The publications, slots and replica identities that streams need."""
