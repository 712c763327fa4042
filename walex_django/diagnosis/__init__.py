"""Problems between the settings and the server, and the command that fixes each."""
