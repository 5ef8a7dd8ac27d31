"""What device libraries need on top of pickle. Never imports one that the process has not loaded itself."""
