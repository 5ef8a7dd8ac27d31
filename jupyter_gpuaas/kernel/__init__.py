"""What runs inside a session's kernel process."""
