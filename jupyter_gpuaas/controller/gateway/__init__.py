"""The service as a Jupyter kernel gateway; see docs/gateway.md."""
