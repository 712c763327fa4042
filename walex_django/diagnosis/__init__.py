"""Find problems between settings and server, and the command that fixes each."""
