"""What the agent of a node is told of its service's settings, as environment variables."""

from __future__ import annotations

from collections.abc import Mapping

from jupyter_gpuaas.config import PREFIX, Settings, inherited

#: Settings that mean the service or a client, not a node.
_NOT_FOR_NODES = frozenset(
    {"url", "session", "on_shutdown", "relay", "host", "port", "acting_s", "acting_url", "engine"}
)
_OF_RAY = PREFIX + "RAY_"
#: What a service may have been given to act by, in its environment. Nodes need none of it, and kernels must not get it.
_SECRETS = frozenset(
    {
        "PGPASSWORD",
        "PGPASSFILE",
        "PGSERVICEFILE",
        "PGSSLKEY",
        "JUPYTERHUB_API_TOKEN",
        "JUPYTERHUB_CRYPT_KEY",
        "CONFIGPROXY_AUTH_TOKEN",
    }
)


def taken_over(environ: Mapping[str, str]) -> dict[str, str]:
    """What an agent, and with it its kernels, takes over from the environment of whoever starts it."""
    return {name: value for name, value in inherited(environ).items() if name not in _SECRETS}


def for_nodes(settings: Settings) -> dict[str, str]:
    """Settings that differ from their defaults and concern a node; none is a secret."""
    return {
        key: value
        for key, value in settings.environment(secrets=False).items()
        if key.removeprefix(PREFIX).lower() not in _NOT_FOR_NODES and not key.startswith(_OF_RAY)
    }
