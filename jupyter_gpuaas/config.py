"""Settings: one frozen value, read from defaults, file, environment and command line (weakest first).

The environment variable of a setting is ``GPUAAS_`` and its name in capitals. The file is ``settings.toml`` in
``GPUAAS_HOME``. ``docs/settings.md`` is generated from this file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from platformdirs import user_data_dir

from .errors import SettingError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MIB = 1024**2
GIB = 1024**3
PREFIX = "GPUAAS_"
#: How variables begin that a service does not inherit: settings of its caller, what a Jupyter server tells a kernel.
_OWN = (PREFIX, "JPY_")
#: Of these, what is no setting, and true for the whole machine.
_PASSED_ON = frozenset({PREFIX + "CRIU"})
#: What a JupyterHub gives its servers and services to act with.
_OF_A_HUB = frozenset({"JUPYTERHUB_API_TOKEN", "JUPYTERHUB_CRYPT_KEY", "CONFIGPROXY_AUTH_TOKEN"})

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]
Bytes = Annotated[int, Meta(gt=0)]
Some = Annotated[int, Meta(gt=0)]


def about(text: str) -> Meta:
    """The documentation of a setting."""
    return Meta(description=text)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every bound and choice of the system; the description of each field is its documentation."""

    # -- where -------------------------------------------------------------------------------------------------
    home: Annotated[str, about("Folder of the embedded service: database, token, data of its nodes.")] = ""
    url: Annotated[str, about("Address of a service elsewhere; empty means the embedded one.")] = ""
    token: Annotated[str, about("Token for the service at `url`.")] = ""
    token_variable: Annotated[
        str,
        about(
            "Environment variable that holds the token where `token` is empty: `JUPYTERHUB_API_TOKEN` in the servers "
            "of a JupyterHub."
        ),
    ] = ""
    session: Annotated[str, about("Id or name of the session that a kernel attaches to.")] = ""
    on_shutdown: Annotated[str, about("What a client's shutdown does: `end` the session or `detach` from it.")] = "end"
    relay: Annotated[str, about("Path of a channel: `auto` (direct, else relay), `never`, `always`.")] = "auto"
    ca: Annotated[
        str,
        about(
            "File (PEM) with the authorities by which certificates of the service and its nodes are verified. Empty "
            "means those of the own CA where `tls` is on and there is one, else those of this machine (docs/tls.md)."
        ),
    ] = ""

    # -- the service -------------------------------------------------------------------------------------------
    host: Annotated[str, about("Address that the controller listens on.")] = "127.0.0.1"
    port: Annotated[Annotated[int, Meta(ge=0, le=65535)], about("Port of the controller; 0 picks a free one.")] = 0
    tls: Annotated[
        str,
        about("Whether controller and agents speak TLS, and prove to each other who they are: `off` or `on`."),
    ] = "off"
    tls_cert: Annotated[
        str,
        about(
            "File (PEM) with the certificate that the controller shows, and its chain. Empty means that of the own CA, "
            "`certs/service.pem` in the home folder (`jupyter gpuaas certs init`)."
        ),
    ] = ""
    tls_key: Annotated[
        str, about("Its private key (PEM), for its user only. Empty means what is beside it, with the ending `.key`.")
    ] = ""
    node_cert: Annotated[
        str,
        about(
            "The same for the agent of a node, on that node; `{node}` is filled in. Empty means `certs/NODE.pem` in "
            "the home folder where there is one, else that of the controller."
        ),
    ] = ""
    node_key: Annotated[str, about("The private key of `node_cert`, as `tls_key`.")] = ""
    nodes: Annotated[Annotated[int, Meta(ge=1, le=64)], about("Local nodes that the embedded service starts.")] = 1
    devices: Annotated[
        str,
        about(
            "Devices of a node: `auto` (GPUs of its machine, which local nodes share out, or one cpu device), like "
            "`cuda:0,1` for these GPUs only (numbers or UUIDs, those of MIG slices too), or like `cpu:2` for two cpu "
            "devices."
        ),
    ] = "auto"
    device_memory_bytes: Annotated[
        Count, about("Memory cap of a cpu device; 0 means an equal share of 80 % of the machine's memory.")
    ] = 0
    spare_kernels: Annotated[Count, about("Kernels that a node keeps started ahead for the next session.")] = 1
    unattended_s: Annotated[Seconds, about("A session without a client ends after this long.")] = 24 * 3600.0
    ticket_s: Annotated[Seconds, about("How long a client may (re-)open a channel with one ticket.")] = 3600.0
    start_timeout_s: Annotated[Seconds, about("A kernel that is not ready after this long has failed.")] = 60.0
    stop_timeout_s: Annotated[Seconds, about("A kernel that does not end by itself in this time is killed.")] = 5.0
    sessions_per_user: Annotated[Count, about("Live sessions that one user may have.")] = 100
    devices_per_user: Annotated[Count, about("Devices that a user's sessions may hold together; 0 means no bound.")] = 0
    device_hours_per_user: Annotated[
        Annotated[float, Meta(ge=0)],
        about("Device-hours that one user may use within `quota_window_s`; 0 means no bound."),
    ] = 0.0
    quota_window_s: Annotated[Seconds, about("Time for which use counts against `device_hours_per_user`.")] = (
        30 * 86400.0
    )
    priority_most: Annotated[
        int, about("Highest priority that a user may ask for, where the admin has not said otherwise of the user.")
    ] = 0
    share_half_life_s: Annotated[
        Seconds, about("Of two users who wait, who has used less is served first; use of so long ago counts half.")
    ] = 86400.0
    reservation_notice_s: Annotated[
        Seconds, about("How long before the end of a reservation the sessions of its user are told.")
    ] = 900.0
    placement: Annotated[
        str,
        about(
            "The node for a new session: the emptiest (`spread`), or the fullest that has room (`pack`), which leaves "
            "others whole for who wants many devices of one node."
        ),
    ] = "spread"
    request_body_bytes: Annotated[Bytes, about("Largest body of a REST request.")] = 1 * MIB
    database_url: Annotated[
        str,
        about(
            "Where the service keeps what it must remember: empty means `controller.db` in the home folder (SQLite), "
            "`postgresql://user@host/name` a PostgreSQL database, which several controllers may have in common "
            "(docs/database.md)."
        ),
    ] = ""
    acting_s: Annotated[
        Seconds,
        about(
            "Of several controllers on one PostgreSQL database one acts; when it has been silent for this long, "
            "another one takes over."
        ),
    ] = 10.0
    acting_url: Annotated[
        str,
        about(
            "Address at which controllers that stand by reach this one while it acts, like `http://host:port`; empty "
            "means the one that it listens on, which will do on one machine."
        ),
    ] = ""
    log_format: Annotated[str, about("How the service and its nodes log: `text` for people, `json` for machines.")] = (
        "text"
    )
    events_kept: Annotated[Count, about("Events kept in the database; the oldest go first.")] = 100_000
    audit_kept: Annotated[Count, about("Entries kept in the audit log; the oldest go first.")] = 100_000
    trusted_proxies: Annotated[
        str,
        about(
            "Addresses, with commas between, of reverse proxies in front of the controller: what these say of where a "
            "request came from is believed (`X-Forwarded-For`, `X-Forwarded-Proto`)."
        ),
    ] = ""
    workdir: Annotated[
        str,
        about(
            "Working folder of a session: `auto` (the client's folder where the node shares its machine, else the "
            "session's own), or `session` (always its own)."
        ),
    ] = "auto"

    kernel_user: Annotated[
        str,
        about(
            "User of the operating system that kernels run as, where agents run as root; `{owner}` is filled in with "
            "the session's owner. Empty means the agent's own (docs/kernel-users.md)."
        ),
    ] = ""
    kernel_wrap: Annotated[
        str,
        about(
            "Command that is put in front of a kernel's, to start it in a container, say, in the words of a shell; "
            "`{folder}`, `{work}` and others are filled in (docs/kernel-users.md)."
        ),
    ] = ""

    advertise: Annotated[
        str,
        about(
            "Address at which clients reach a node's agent, where it is not the one it listens on (a port forward, an "
            "ingress); `{node}` and `{port}` are filled in. Empty means the agent's own."
        ),
    ] = ""

    on_node_loss: Annotated[
        str,
        about(
            "A cell that had begun when the host of its session was lost: `ask` (its user, by an error), `rerun`, or "
            "`restore_only` (an error that asks for nothing). A client's own, other than that, is for the sessions "
            "that it makes."
        ),
    ] = "ask"

    lease_s: Annotated[
        Seconds,
        about(
            "A node that has been silent for this long is lost: its sessions come back elsewhere, and it has stopped "
            "its own kernels by then. Only where the service has more than one node."
        ),
    ] = 15.0

    # -- who owns the nodes ------------------------------------------------------------------------------------
    engine: Annotated[str, about("Who owns the nodes: `local` (this machine), or `ray` (a Ray cluster).")] = "local"
    ray_address: Annotated[
        str, about("Address of the Ray cluster, `HOST:PORT`; `auto` finds the one that this machine belongs to.")
    ] = "auto"
    ray_namespace: Annotated[
        str,
        about(
            "Ray namespace of what this service makes there, by which it finds its agents and leases again; no other "
            "service may have the same. Empty means one of its own."
        ),
    ] = ""
    ray_token_file: Annotated[
        str, about("File with the token of the Ray cluster; empty means what Ray itself would look at.")
    ] = ""
    ray_agent_host: Annotated[
        str, about("Address that agents on Ray nodes listen on; empty means the one that Ray knows the node by.")
    ] = ""
    ray_node_folder: Annotated[
        str,
        about(
            "Folder on each Ray node for the data of agents, in which each service has one of its own; empty means one "
            "in the data folder of its user."
        ),
    ] = ""
    ray_lease_s: Annotated[
        Seconds, about("Devices that a service holds in Ray are free again when it has been gone for this long.")
    ] = 600.0
    ray_poll_s: Annotated[Seconds, about("Pause between two looks at the nodes of the Ray cluster.")] = 0.5
    ray_grant_s: Annotated[
        Seconds,
        about(
            "A device that seems to be free and that Ray does not give in this time is somebody else's: the session "
            "takes what comes free elsewhere."
        ),
    ] = 10.0
    ray_autoscale: Annotated[
        str, about("Whether sessions that wait ask Ray's autoscaler for nodes, and may wait for such: `off` or `on`.")
    ] = "off"

    # -- JupyterHub as identity (docs/deploy/jupyterhub.md) ------------------------------------------------------
    hub_api_url: Annotated[
        str,
        about(
            "Address of a JupyterHub's API, `http://HOST:8081/hub/api`: users with its tokens are users here. Empty "
            "means none."
        ),
    ] = ""
    hub_service: Annotated[str, about("Name of this service in the Hub.")] = "gpuaas"
    hub_admin_group: Annotated[str, about("Group of the Hub whose members are admins here; empty means none.")] = ""
    hub_cache_s: Annotated[
        Seconds, about("The Hub is asked about a token again after this long: what it has revoked is refused by then.")
    ] = 60.0
    hub_away_s: Annotated[
        Annotated[float, Meta(ge=0)],
        about("While the Hub does not answer, what it said of a token counts for so long."),
    ] = 600.0
    hub_api_token: Annotated[
        str, about("Token of this service in the Hub, with which visitors with a browser log in through the Hub.")
    ] = ""
    hub_url: Annotated[
        str, about("Address of the Hub for browsers, `https://HOST/hub`; empty means that no visitors log in.")
    ] = ""
    public_url: Annotated[
        str,
        about(
            "Address of the service for browsers, like `https://HOST/services/gpuaas`. What comes to a path that "
            "begins with its path is served as if that were not there."
        ),
    ] = ""

    # -- channels ----------------------------------------------------------------------------------------------
    journal_bytes: Annotated[Bytes, about("Bound of one session's journal on disk.")] = GIB
    journal_segment_bytes: Annotated[Bytes, about("Size at which the journal begins a new file.")] = 32 * MIB
    message_bytes: Annotated[Bytes, about("Largest single message.")] = 4 * GIB
    frame_bytes: Annotated[Bytes, about("Largest WebSocket frame.")] = 4 * MIB
    outbox_bytes: Annotated[
        Bytes,
        about(
            "Requests that a proxy keeps while its link is down, and a host while its session stands still or has no "
            "kernel; more are refused."
        ),
    ] = GIB
    requests_remembered: Annotated[Count, about("Requests whose ids a host remembers, to run none twice.")] = 100_000
    clients_remembered: Annotated[Some, about("Clients of a session whose last request its host remembers.")] = 1000
    waiting_bytes: Annotated[
        Bytes,
        about(
            "Outputs of a session that wait for the disk in its host's memory; beyond them the kernel waits. As much "
            "is kept there when the disk takes no more."
        ),
    ] = 64 * MIB
    undelivered_bytes: Annotated[
        Bytes, about("Outputs that a proxy holds for clients that do not take them; more stay in the host's journal.")
    ] = 64 * MIB
    undelivered_records: Annotated[Some, about("The same as a number of outputs.")] = 20_000
    undelivered_pages_bytes: Annotated[
        Bytes, about("The same for a browser that uses the service as its gateway, in the controller's memory.")
    ] = 16 * MIB
    unserved_connections: Annotated[Some, about("Connections to an agent that may be open without a request.")] = 512
    transfers_at_once: Annotated[Some, about("Connections that the successor of a moving session may have open.")] = 16
    ping_s: Annotated[Seconds, about("Pause between two pings of a quiet link.")] = 5.0
    silence_s: Annotated[Seconds, about("A link that is silent for this long is given up and opened again.")] = 15.0
    ack_delay_s: Annotated[Seconds, about("How long the proxy waits before it acknowledges what its client took.")] = (
        1.0
    )
    retry_first_s: Annotated[Seconds, about("First pause before a link is opened again; grows each time.")] = 0.1
    retry_most_s: Annotated[Seconds, about("Longest pause before a link is opened again.")] = 5.0
    unreachable_s: Annotated[Seconds, about("A cell that waits this long for an unreachable service fails.")] = 3.0
    host_silence_s: Annotated[
        Seconds,
        about("The host process of a session that does not answer its agent for this long hangs: its session is lost."),
    ] = 30.0
    begin_s: Annotated[
        Seconds, about("A kernel that has not begun a request after this long, and runs no other, is asked for it.")
    ] = 5.0
    busy_report_s: Annotated[Seconds, about("A cell shorter than this is not reported as busy to the service.")] = 0.25

    # -- checkpoints -------------------------------------------------------------------------------------------
    checkpoint_store: Annotated[
        str,
        about(
            "Where checkpoints are kept: a folder, or a URL such as `s3://bucket/prefix`; one folder a user in it. "
            "Empty means `checkpoints` in the home folder."
        ),
    ] = ""
    checkpoint_every: Annotated[Count, about("A checkpoint after so many cells; 0 means none by itself.")] = 1
    checkpoint_share: Annotated[
        Annotated[float, Meta(ge=0)],
        about(
            "How much checkpoints may hold up cells, as a share of the time that cells run; what would be more waits "
            "until the session is quiet."
        ),
    ] = 0.1
    checkpoint_together_s: Annotated[
        Annotated[float, Meta(ge=0)],
        about(
            "Many short cells in a row, each sent so soon after the one before, share checkpoints; 0 means they do not."
        ),
    ] = 0.05
    checkpoint_keep: Annotated[
        Count, about("So many of the newest checkpoints of a session are kept, beside the named ones; 0 means all.")
    ] = 200
    checkpoint_keep_s: Annotated[
        Annotated[float, Meta(ge=0)], about("Older checkpoints without a name are removed; 0 means never.")
    ] = 30 * 24 * 3600.0
    checkpoint_quota_bytes: Annotated[Count, about("Most bytes of one user's checkpoints; 0 means no bound.")] = (
        200 * GIB
    )
    checkpoint_waiting_bytes: Annotated[
        Bytes, about("Memory for copies that wait to be written; when it is full, the next cell waits.")
    ] = 4 * GIB

    # -- sessions that move ------------------------------------------------------------------------------------
    images: Annotated[
        str,
        about(
            "Kernels that can move in the middle of a cell, as process images: `off`, or `auto` (on nodes that can; "
            "they need root and CRIU, see docs/process-images.md)."
        ),
    ] = "off"
    image_folder: Annotated[
        str,
        about(
            "Folder of a node in which process images are made and to which they come, with room for the memory of its "
            "sessions, and which holds what these keep in `/tmp`. Empty means `images` in the data folder of the node."
        ),
    ] = ""
    want_devices: Annotated[
        Annotated[float, Meta(gt=0)],
        about("Devices of a new session of this client: a whole number, or a part of one device, as `0.5`."),
    ] = 1.0
    priority: Annotated[
        int,
        about(
            "Priority of a new session of this client. Higher ones are served first, and lower ones are parked for "
            "them when there is no room."
        ),
    ] = 0
    standby: Annotated[
        Annotated[int, Meta(ge=0, le=1)],
        about(
            "Standbys of a new session of this client: hosts on a second node that follow its checkpoints, so that it "
            "goes on at once when its node is lost. A standby holds devices as long as nobody else wants them."
        ),
    ] = 0
    standby_bytes: Annotated[
        Count,
        about(
            "Memory that a standby fills ahead with the state of its session, beside that of its packages; what is "
            "more comes when it takes over. 0 means as much as its devices may have."
        ),
    ] = 16 * GIB
    park_idle_s: Annotated[
        Annotated[float, Meta(ge=0)],
        about("A session without a cell for this long gives its devices back until its next cell; 0 means never."),
    ] = 0.0
    park_for_waiting_s: Annotated[
        Annotated[float, Meta(ge=0)],
        about(
            "The same while another session waits for a device that it holds: so long idle, and it gives it back; "
            "0 means never."
        ),
    ] = 30.0

    turn_s: Annotated[
        Annotated[float, Meta(ge=0)],
        about(
            "While another session waits for devices that a session holds: after so long it gives them up, in the "
            "middle of its cell, too, where it can be suspended there; it goes on when its turn comes. 0 means never."
        ),
    ] = 30.0
    kept_bytes: Annotated[
        Count,
        about(
            "Memory of a node for sessions that stay in it without devices: those suspended in the middle of their "
            "cells, and those parked with their process. 0 means half of the machine's memory, shared out among its "
            "nodes."
        ),
    ] = 0

    # -- cells shipped by %%remote_gpu -------------------------------------------------------------------------
    small_value_bytes: Annotated[Count, about("Values up to this size come back from a shipped cell.")] = MIB
    bundle_bytes: Annotated[Bytes, about("Most bytes of variables shipped with one cell.")] = 64 * GIB
    sync_bytes: Annotated[Bytes, about("Most bytes of files that one sync sends.")] = GIB
    sync_files: Annotated[Count, about("Most files that one sync sends.")] = 10_000

    @property
    def folder(self) -> Path:
        """The home folder as an absolute path."""
        return Path(self.home or user_data_dir("jupyter-gpuaas", appauthor=False)).expanduser().absolute()

    def make_folder(self) -> Path:
        """The home folder, made if it is not there, for its user only; raises SettingError where that fails."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(f"setting home: {self.folder} is not usable: {error.strerror}.") from error
        return self.folder

    @property
    def database(self) -> str | Path:
        """Address of the service's database, or its file."""
        return self.database_url or self.folder / "controller.db"

    @property
    def asked_on_node_loss(self) -> str:
        """What sessions of this client ask for; empty where it is the default, so that the service's choice counts."""
        return "" if self.on_node_loss == Settings().on_node_loss else self.on_node_loss

    def environment(self, *, secrets: bool = True) -> dict[str, str]:
        """The settings that differ from their defaults, as environment variables for a child process.

        Parameters
        ----------
        secrets
            Whether those, too, that a process which runs users' code must not get.
        """
        mine, default = msgspec.structs.asdict(self), msgspec.structs.asdict(Settings())
        left_out = frozenset() if secrets else SECRETS
        return {
            PREFIX + key.upper(): str(value)
            for key, value in mine.items()
            if value != default[key] and key not in left_out
        }


#: Settings that let whoever knows them act for others.
SECRETS = frozenset({"token", "database_url", "hub_api_token"})


CHOICES: Mapping[str, tuple[str, ...]] = {
    "on_shutdown": ("end", "detach"),
    "relay": ("auto", "never", "always"),
    "workdir": ("auto", "session"),
    "placement": ("spread", "pack"),
    "images": ("off", "auto"),
    "engine": ("local", "ray"),
    "ray_autoscale": ("off", "on"),
    "on_node_loss": ("ask", "rerun", "restore_only"),
    "log_format": ("text", "json"),
    "tls": ("off", "on"),
}


def load(environ: Mapping[str, str] | None = None, **command_line: Any) -> Settings:
    """Read the settings.

    Parameters
    ----------
    environ
        Environment variables; those of the process when None.
    command_line
        Values that win over all others; None means not given.

    Raises
    ------
    SettingError
        A value is not usable, or the file names a setting that does not exist.
    """
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in command_line.items() if value is not None}
    names = Settings.__struct_fields__
    from_environment = {name: environ[PREFIX + name.upper()] for name in names if environ.get(PREFIX + name.upper())}
    home = given.get("home") or from_environment.get("home") or ""
    values = _read_file(Settings(home=home).folder / "settings.toml") | from_environment | given
    if not values.get("token") and values.get("token_variable"):
        values["token"] = environ.get(str(values["token_variable"]), "")
    if home:
        values["home"] = str(Settings(home=home).folder)
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingError(f"setting not usable: {error}", hint="See docs/settings.md.") from error
    for name, choices in CHOICES.items():
        if getattr(settings, name) not in choices:
            raise SettingError(f"setting {name}: {getattr(settings, name)!r} is none of {', '.join(choices)}")
    if settings.want_devices > 1 and not settings.want_devices.is_integer():
        raise SettingError(
            f"setting want_devices: {settings.want_devices:g} is neither a whole number nor a part of one"
        )
    return settings


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"settings file {path} cannot be read: {error}.") from error
    for name in values:
        if name not in Settings.__struct_fields__:
            near = get_close_matches(name, Settings.__struct_fields__, 1)
            meant = f"Is {near[0]} meant? " if near else ""
            raise SettingError(
                f"settings file {path}: there is no setting {name!r}.", hint=f"{meant}docs/settings.md has them all."
            )
    return values


def document() -> str:
    """The table in ``docs/settings.md``."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for field in msgspec.structs.fields(Settings):
        description = next(
            meta.description for meta in field.type.__metadata__ if isinstance(meta, Meta) and meta.description
        )
        choices = CHOICES.get(field.name)
        shown = f"`{field.default!r}`" if field.default != "" else "empty"
        extra = f" One of {', '.join(f'`{c}`' for c in choices)}." if choices and "`" not in description else ""
        rows.append(f"| `{field.name}` | {shown} | {description}{extra} |")
    return "\n".join(rows) + "\n"


_HEAD = """# Settings

From weakest to strongest: default, file (`settings.toml` in `GPUAAS_HOME`), environment (`GPUAAS_` and the name in
capitals, as in `GPUAAS_UNATTENDED_S=3600`), command line. Sizes are in bytes, times in seconds. A value that is not
usable is refused at the start, with the name of its setting.

No settings, and read from the environment only: `GPUAAS_LOG`, from which level on a kernel proxy logs to stderr
(`ERROR`), and `GPUAAS_CRIU`, a program to use as CRIU (docs/process-images.md).

This page is generated: `python -m jupyter_gpuaas.config > docs/settings.md`.

"""


def page() -> str:
    """The whole of ``docs/settings.md``."""
    return _HEAD + document()


if __name__ == "__main__":
    print(page(), end="")


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What a service, or a node of it, takes over from the environment of whoever happened to start it."""
    return {
        name: value
        for name, value in environ.items()
        if name in _PASSED_ON or not (name.startswith(_OWN) or name in _OF_A_HUB)
    }
