"""The service: REST and WebSocket, sessions, leases, placement, catalogue."""
