"""What the service must remember."""
