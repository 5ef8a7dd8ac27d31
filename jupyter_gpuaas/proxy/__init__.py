"""The kernel proxy: an ordinary kernel process for the front end, a client of a session for the service."""
