"""What the agent of a node is told of its service's settings, as environment variables."""

from __future__ import annotations

from jupyter_gpuaas.config import PREFIX, Settings

#: Settings that mean the service or a client, not a node.
_NOT_FOR_NODES = frozenset(
    {"url", "session", "on_shutdown", "relay", "host", "port", "acting_s", "acting_url", "engine"}
)
_OF_RAY = PREFIX + "RAY_"


def for_nodes(settings: Settings) -> dict[str, str]:
    """Settings that differ from their defaults and concern a node; none is a secret."""
    return {
        key: value
        for key, value in settings.environment(secrets=False).items()
        if key.removeprefix(PREFIX).lower() not in _NOT_FOR_NODES and not key.startswith(_OF_RAY)
    }
