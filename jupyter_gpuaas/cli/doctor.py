"""`jupyter gpuaas doctor`: looks at everything that the service and its clients need, and says what to do."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import click
import msgspec

from jupyter_gpuaas import __version__
from jupyter_gpuaas.cli.asking import as_json, plain, print_json, settings_of
from jupyter_gpuaas.cli.needs import Need, needs
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import GpuaasError

if TYPE_CHECKING:
    from jupyter_gpuaas.wire.tls import Credentials

Level = Literal["ok", "note", "warning", "failure"]
#: How far two clocks may be apart: tickets and tokens end by them.
CLOCKS_S = 5.0
FREE_BYTES = 2 * 1024**3
CERTIFICATE_DAYS = 14
TIMEOUT_S = 5.0
_MARKS = {"ok": "ok     ", "note": "note   ", "warning": "WARNING", "failure": "FAILURE"}


class Finding(msgspec.Struct, frozen=True):
    """What one look has found."""

    what: str
    level: Level
    says: str
    #: What its user can do.
    do: str = ""


@click.command()
@as_json
@click.pass_obj
def doctor(given: dict[str, Any], as_json: bool) -> None:
    """Look whether all that is needed is there, and say what to do. Exits with 1 when something fails."""
    settings = settings_of(given)
    findings = [finding for look in LOOKS for finding in _careful(look, settings)]
    if as_json:
        print_json([plain(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{_MARKS[finding.level]}  {finding.what}: {finding.says}")
            if finding.do:
                click.echo(f"         → {finding.do}")
    sys.exit(any(finding.level == "failure" for finding in findings))


def _careful(look: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    name = look.__name__.removeprefix("_")
    try:
        yield from look(settings)
    except GpuaasError as error:
        yield Finding(name, "failure", error.message, error.hint)
    except Exception as error:  # one look that fails must not hide what the others find
        yield Finding(name, "failure", f"{type(error).__name__}: {error}", "This is a fault of the command: report it.")


def _versions(_: Settings) -> Iterator[Finding]:
    yield Finding("versions", "ok", f"jupyter_gpuaas {__version__}, Python {platform.python_version()}")
    found = list(needs())
    for each in found:
        if not each.fits:
            yield _misfit("versions", each)
    fine = [f"{each.name} {each.has}" for each in found if each.fits and each.name in _TOLD]
    yield Finding(
        "versions", "ok", f"{', '.join(fine)}; {sum(each.fits for each in found)} of {len(found)} packages fit"
    )
    for each in needs(_EXTRAS):
        if each.extra and each.has and not each.fits:
            yield _misfit("versions", each, "warning")
    if sys.platform != "linux":
        yield Finding("versions", "failure", f"nodes run on Linux, not on {sys.platform}", "Use a service elsewhere.")


#: Packages whose versions are told where they are right, too.
_TOLD = ("ipykernel", "jupyter-client", "sqlalchemy")
#: Those whose packages, where they are installed, have to be of a version that will do. Ray has a look of its own.
_EXTRAS = ("torch", "cupy", "postgres", "certs", "s3", "lab")


def _misfit(what: str, need: Need, level: Level = "failure") -> Finding:
    package = f"jupyter_gpuaas[{need.extra}]" if need.extra else f"{need.name}{need.wants}"
    has = f"is {need.has}" if need.has else "is not installed"
    return Finding(
        what, level, f"{need.name} {has}, {need.wants or 'any version'} is needed", f"`pip install '{package}'`"
    )


def _home(settings: Settings) -> Iterator[Finding]:
    folder = settings.make_folder()
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        yield Finding("home", "warning", f"others can look into {folder}", f"`chmod 700 {folder}`")
    if not os.access(folder, os.W_OK):
        yield Finding("home", "failure", f"{folder} cannot be written", "Choose another with GPUAAS_HOME.")
    token = folder / "token"
    if token.exists() and token.stat().st_mode & 0o077:
        yield Finding("home", "failure", f"others can read {token}", f"`chmod 600 {token}`, and make a new token.")
    free = shutil.disk_usage(folder).free
    level: Level = "ok" if free >= FREE_BYTES else "warning"
    yield Finding("home", level, f"{folder}, {free / 1024**3:.1f} GiB free", "" if level == "ok" else "Make room.")


def _database(settings: Settings) -> Iterator[Finding]:
    if not settings.database_url and not (settings.folder / "controller.db").exists():
        yield Finding("database", "note", "none yet; the service makes it when it starts first")
        return
    from jupyter_gpuaas.controller.catalogue.opening import address
    from jupyter_gpuaas.controller.catalogue.schema_version import look_at

    shown = address(settings.database).render_as_string(hide_password=True)
    found, newest = look_at(settings.database)
    if found is None or found == newest:
        yield Finding("database", "ok", f"{shown}, schema {found or 'none yet'}")
    elif found < newest:
        yield Finding("database", "note", f"{shown}, schema {found}; the service brings it to {newest} when it starts")
    else:
        yield Finding(
            "database", "failure", f"{shown}: schema {found} is newer than {newest}", "Install a newer version."
        )


def _store(settings: Settings) -> Iterator[Finding]:
    where = settings.checkpoint_store or str(settings.folder / "checkpoints")
    if "://" in where:
        # An extra: its absence is one of the findings, and no matter for type checks.
        filesystem, path = importlib.import_module("fsspec.core").url_to_fs(where)
        try:
            filesystem.ls(path)
        except FileNotFoundError:
            pass  # made by the first checkpoint
        yield Finding("store", "ok", f"{urlsplit(where).scheme}://… can be listed")
        return
    parent = where
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    try:
        # Permissions alone do not tell: it may lie on a file system that is mounted to be read, or below a file.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        yield Finding("store", "failure", f"{where} cannot be written: {error.strerror}", "Setting checkpoint_store.")
        return
    yield Finding("store", "ok", f"{where}, {shutil.disk_usage(parent).free / 1024**3:.1f} GiB free")


def _service(settings: Settings) -> Iterator[Finding]:
    import httpx

    from jupyter_gpuaas.client.embedded import read_service_file
    from jupyter_gpuaas.wire.tls import Credentials, client_context, explain

    written = read_service_file(settings.folder)
    url = settings.url or (written.url if written is not None else "")
    if not url:
        yield Finding("service", "note", "none runs for this folder; the first notebook, or `up`, starts it")
        yield from _port(settings)
        return
    ca = settings.ca if settings.url or written is None else written.ca
    verify: Any = client_context(Credentials(ca=ca)) if url.startswith("https:") else False
    try:
        began_s = time.time()
        answer = httpx.get(f"{url}/health", timeout=TIMEOUT_S, trust_env=bool(settings.url), verify=verify)
        middle_s = (began_s + time.time()) / 2
    except httpx.HTTPError as error:
        level: Level = "failure" if settings.url else "note"
        trouble = explain(error, urlsplit(url).netloc, ca)
        if trouble is not None:
            yield Finding("service", "failure", f"{url} is not trusted: {trouble.says}", trouble.do)
            return
        yield Finding("service", level, f"{url} does not answer: {error}", "`jupyter gpuaas up` starts one here.")
        yield from _port(settings)
        return
    ready = httpx.get(f"{url}/readyz", timeout=TIMEOUT_S, trust_env=bool(settings.url), verify=verify)
    version = str(answer.json().get("version", "?")) if answer.status_code == 200 else "?"
    if ready.status_code == 200:
        yield Finding("service", "ok", f"{url}, version {version}, ready")
    else:
        checks = ready.json().get("checks") or ready.json().get("hint", "")
        yield Finding("service", "failure", f"{url} is not ready: {checks}", "Its log says more.")
    if version not in ("?", __version__):
        yield Finding("service", "warning", f"its version is {version}, ours {__version__}", "Use the same on both.")
    if version != "?":
        yield from _node_clocks(settings, url, verify)
    if "date" in answer.headers:
        apart_s = abs(parsedate_to_datetime(answer.headers["date"]).timestamp() - middle_s)
        far = apart_s > CLOCKS_S
        yield Finding(
            "clocks",
            "warning" if far else "ok",
            f"{apart_s:.0f} s apart" if far else f"less than {CLOCKS_S:g} s apart",
            "Let both keep time by NTP: tickets and tokens end by the clock." if far else "",
        )


def _node_clocks(settings: Settings, url: str, verify: Any) -> Iterator[Finding]:
    import httpx

    token = settings.token
    if not settings.url and (settings.folder / "token").exists():
        token = (settings.folder / "token").read_text("utf-8").strip()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(f"{url}/nodes", timeout=TIMEOUT_S, trust_env=bool(settings.url), verify=verify, headers=headers)
    if answer.status_code != 200:
        yield Finding("clocks", "note", "those of the nodes were not looked at: the service wants a token for that")
        return
    ahead = {node["id"]: node.get("clock_ahead_s") for node in answer.json()}
    for node_id, ahead_s in ahead.items():
        if ahead_s is not None and abs(ahead_s) > CLOCKS_S:
            says = f"node {node_id} is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the service"
            yield Finding("clocks", "warning", says, "Let it keep time by NTP: it judges tickets by its clock.")
    seen = sum(ahead_s is not None for ahead_s in ahead.values())
    yield Finding("clocks", "ok", f"{seen} of {len(ahead)} nodes were compared with the service")


def _port(settings: Settings) -> Iterator[Finding]:
    if not settings.port:
        return
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            yield Finding(
                "port", "failure", f"{settings.host}:{settings.port}: {error.strerror}", "Choose another port."
            )
            return
    yield Finding("port", "ok", f"{settings.host}:{settings.port} is free")


def _certificate(settings: Settings) -> Iterator[Finding]:
    """What a client sees of the service elsewhere."""
    from jupyter_gpuaas.wire.tls import client_context, explain, of_client

    parts = urlsplit(settings.url)
    if not settings.url:
        return
    if parts.scheme != "https":
        if parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            yield Finding("certificate", "warning", "the service is spoken to without TLS", "docs/tls.md")
        return
    host, port = parts.hostname or "", parts.port or 443
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as plain_socket:
            with client_context(of_client(settings)).wrap_socket(plain_socket, server_hostname=host) as tls:
                certificate = tls.getpeercert() or {}
    except OSError as error:
        trouble = explain(error, f"{host}:{port}", settings.ca)
        says, do = trouble or (f"{host}:{port}: {error}", "Is the address right, and does the service run?")
        yield Finding("certificate", "failure", says, do)
        return
    yield _ending("certificate", f"of {host}", certificate, "Renew it.")


def _certificates(settings: Settings) -> Iterator[Finding]:
    """What the service and the nodes of this machine show, and whether others will trust it."""
    from jupyter_gpuaas.wire.tls import FOLDER, of_node, of_service

    folder = settings.folder / FOLDER
    for key in sorted(folder.glob("*.key")):
        yield from _key_permissions(str(key))
    if settings.tls != "on":
        if settings.host not in ("127.0.0.1", "::1", "localhost"):
            yield Finding("certificates", "warning", f"TLS is off, and the service listens on {settings.host}", _HOW)
        return
    service = of_service(settings)
    shown: dict[Credentials, tuple[str, str | None]] = {service: ("of the service", None)}
    if settings.engine == "local":
        for number in range(settings.nodes):
            node = of_node(settings, f"local-{number}")
            shown[node] = (f"of node local-{number}" if node != service else "of service and nodes", "127.0.0.1")
    for credentials, (whose, name) in shown.items():
        if not credentials.key.startswith(f"{folder}{os.sep}"):
            yield from _key_permissions(credentials.key)
        yield from _shown(credentials, whose, name)


_HOW = "`jupyter gpuaas certs init`, then GPUAAS_TLS=on; or an ingress with TLS in front of it. docs/tls.md"


def _shown(credentials: Credentials, whose: str, name: str | None) -> Iterator[Finding]:
    """Let it meet itself in memory: chain, times, name, and what it may be used for."""
    from jupyter_gpuaas.wire.tls import explain, verify

    try:
        certificate = verify(credentials, name)
    except ssl.SSLError as error:
        trouble = explain(error, name or credentials.cert, credentials.ca)
        says, do = trouble or (str(error), _HOW)
        yield Finding("certificates", "failure", f"{whose} ({credentials.cert}): {says}", do)
        return
    by = f", verified by {credentials.ca}" if credentials.ca else ""
    yield _ending("certificates", f"{whose}{by}", certificate, "`jupyter gpuaas certs renew`")


def _ending(what: str, whose: str, certificate: Mapping[str, Any], do: str) -> Finding:
    days = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86400
    soon = days < CERTIFICATE_DAYS
    return Finding(what, "warning" if soon else "ok", f"{whose}: ends in {days:.0f} days", do if soon else "")


def _key_permissions(key: str) -> Iterator[Finding]:
    try:
        mode = os.stat(key).st_mode & 0o777
    except OSError as error:
        yield Finding("certificates", "failure", f"{key}: {error.strerror}", _HOW)
        return
    if mode & 0o077:
        yield Finding("certificates", "failure", f"others can read {key}", f"`chmod 600 {key}`, and make a new one.")


def _devices(_: Settings) -> Iterator[Finding]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        there = os.path.exists("/proc/driver/nvidia")
        says = (
            "there is an NVIDIA driver that does not answer"
            if there
            else "no NVIDIA driver; nodes here have cpu devices"
        )
        yield Finding("devices", "failure" if there else "note", says, "`nvidia-smi` says more." if there else "")
        return
    try:
        count, driver = pynvml.nvmlDeviceGetCount(), pynvml.nvmlSystemGetDriverVersion()
        yield Finding("devices", "ok" if count else "warning", f"{count} GPUs, driver {driver}")
        if int(str(driver).split(".")[0]) < 570:
            yield Finding("devices", "note", "process images of GPU kernels need driver 570 or newer")
    finally:
        pynvml.nvmlShutdown()


def _ray(settings: Settings) -> Iterator[Finding]:
    """The way to the Ray cluster, without joining it."""
    if settings.engine != "ray":
        return
    for each in needs(("ray",)):
        if each.extra:
            yield Finding("ray", "ok", f"{each.name} {each.has}") if each.fits else _misfit("ray", each)
    yield from _ray_token(settings)
    address = settings.ray_address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        yield Finding("ray", "note", f"address {address}: which cluster that is, Ray finds when the service starts")
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S):
            yield Finding("ray", "ok", f"{address} can be reached")
    except OSError as error:
        yield Finding("ray", "failure", f"{address} cannot be reached: {error}", "Setting ray_address; does it run?")


def _ray_token(settings: Settings) -> Iterator[Finding]:
    named = settings.ray_token_file or os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    if not settings.ray_token_file and os.environ.get("RAY_AUTH_TOKEN"):
        yield Finding("ray", "ok", "its token is in the environment")
        return
    token = os.path.expanduser(named or "~/.ray/auth_token")
    try:
        mode = os.stat(token).st_mode & 0o777
    except OSError as error:
        if named:
            yield Finding("ray", "failure", f"token file {token}: {error.strerror}", "Setting ray_token_file.")
        else:
            says = "no token: whoever reaches the ports of the cluster can run code on it"
            yield Finding("ray", "warning", says, "docs/deploy/ray.md")
        return
    if not os.access(token, os.R_OK):
        yield Finding("ray", "failure", f"token file {token} cannot be read", "Setting ray_token_file.")
    elif mode & 0o077:
        yield Finding("ray", "failure", f"others can read {token}", f"`chmod 600 {token}`, and make a new token.")
    else:
        yield Finding("ray", "ok", f"token file {token}")


def _images(settings: Settings) -> Iterator[Finding]:
    from jupyter_gpuaas.errors import ImageUnavailable
    from jupyter_gpuaas.image.criu import find_criu

    try:
        criu = find_criu()
    except ImageUnavailable as error:
        wanted = settings.images != "off"
        yield Finding("CRIU", "failure" if wanted else "note", error.message, error.hint if wanted else "")
        return
    yield Finding("CRIU", "ok", f"{criu.version} ({criu.path})")


LOOKS = (_versions, _home, _database, _store, _service, _certificate, _certificates, _devices, _images, _ray)
COMMANDS = (doctor,)
