"""The user's side: HTTP and WebSocket to the service and to a session. Needs neither torch nor Ray."""
