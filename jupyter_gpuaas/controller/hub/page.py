"""The one page that the service has for browsers. Pure: text in, HTML out."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from jupyter_gpuaas.model import GpuSession

HOME, LOGIN, CALLBACK, LOGOUT = "/", "/login", "/oauth_callback", "/logout"
#: Paths that need no token in a header: they tell nothing but to who has logged in.
VISITS = frozenset({HOME, LOGIN, CALLBACK, LOGOUT})

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Remote GPU sessions</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ border-bottom: 1px solid #999; padding: .3rem .6rem; text-align: left; }}
</style>
</head>
<body>
<main>
<h1>Remote GPU sessions</h1>
{content}
</main>
</body>
</html>
"""


def page(user: str, is_admin: bool, sessions: Iterable[GpuSession], *, base: str, hub: str) -> str:
    """A visitor's sessions, and where to go from here.

    Parameters
    ----------
    base
        Address of the service for browsers.
    hub
        Address of the Hub for browsers.
    """
    rows = "".join(_row(each) for each in sessions)
    table = (
        "<table><thead><tr><th scope=col>Name<th scope=col>State<th scope=col>Node<th scope=col>Id</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
        if rows
        else "<p>You have no sessions now. Choose the kernel <em>Python 3 (remote GPU)</em> in a notebook.</p>"
    )
    who = f"<p>You are <strong>{escape(user)}</strong>{', an admin' if is_admin else ''}.</p>"
    more = (
        f'<p><a href="{escape(hub)}/home">Your notebooks</a> · <a href="{escape(hub)}/token">Tokens</a> for programs '
        f'elsewhere (GPUAAS_TOKEN) · <a href="{escape(base)}/docs">What the service answers</a> · '
        f'<a href="{escape(base)}{LOGOUT}">Log out here</a></p>'
    )
    return _FRAME.format(content=who + table + more)


def refusal(message: str, hint: str) -> str:
    """Why there is nothing to be seen."""
    return _FRAME.format(content=f"<p>{escape(message)}</p><p>{escape(hint)}</p>")


def _row(session: GpuSession) -> str:
    node = session.lease.node_id if session.lease is not None else ""
    cells = (session.name or "(no name)", str(session.state), node, session.id)
    return "<tr>" + "".join(f"<td>{escape(each)}" for each in cells) + "</tr>"
