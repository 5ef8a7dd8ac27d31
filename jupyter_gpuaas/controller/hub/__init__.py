"""JupyterHub as identity: the Hub says whose a token is and what it may be used for (docs/deploy/jupyterhub.md)."""
