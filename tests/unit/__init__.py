"""Tests of single parts, without processes or sockets."""
