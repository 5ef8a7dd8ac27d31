"""Capture and restore of Python objects; shared by the client half and the service half."""
