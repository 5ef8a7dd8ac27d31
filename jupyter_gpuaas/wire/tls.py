"""TLS: who shows which certificate, by which authorities it is verified, and what went wrong, in words.

The errors of the standard library's ``ssl`` are mapped here. Contexts are made anew when their files change, so that a
certificate can be renewed while everything runs.
"""

from __future__ import annotations

import functools
import logging
import os
import ssl
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..config import Settings
from ..errors import SettingError

log = logging.getLogger(__name__)

#: Folder of the own CA in the home folder, and what is in it.
FOLDER = "certs"
AUTHORITY = "ca"
SERVICE = "service"
CERT_SUFFIX, KEY_SUFFIX = ".pem", ".key"
#: How a TLS connection begins; a byte with which no request of HTTP does.
HANDSHAKE = 0x16

_EXPIRED, _NOT_YET = 10, 9
_OTHER_NAME = frozenset({62, 63, 64})
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
_WRONG_PURPOSE = 26
#: What OpenSSL says of an answer that is no TLS; it depends on its version.
_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "PACKET_LENGTH_TOO_LONG",
)
#: A part of what the other end says of our certificate, and what that means.
_ALERTS = (
    ("ALERT_UNKNOWN_CA", "does not know the authority of the certificate that it was shown"),
    ("CERTIFICATE_EXPIRED", "says that the certificate that it was shown has expired"),
    ("CERTIFICATE_REQUIRED", "wants to be shown a certificate"),
    ("CERTIFICATE_UNKNOWN", "does not accept the certificate that it was shown"),
    ("BAD_CERTIFICATE", "does not accept the certificate that it was shown"),
    ("DECRYPT_ERROR", "does not accept the certificate that it was shown"),
)


class Credentials(msgspec.Struct, frozen=True):
    """What one process proves with who it is, and verifies others by; files, empty where there is none."""

    #: Empty means the authorities of this machine.
    ca: str = ""
    cert: str = ""
    key: str = ""


class Trouble(NamedTuple):
    """What is wrong, without a full stop, and what its user can do."""

    says: str
    do: str


# -- whose -------------------------------------------------------------------------------------------------------------


def of_client(settings: Settings) -> Credentials:
    """Of a client of a service elsewhere: tokens say who it is, so it has no certificate."""
    return Credentials(ca=settings.ca)


def of_service(settings: Settings) -> Credentials:
    """Of the controller; none where TLS is off."""
    if settings.tls != "on":
        return Credentials(ca=settings.ca)
    cert = settings.tls_cert or str(settings.folder / FOLDER / f"{SERVICE}{CERT_SUFFIX}")
    return Credentials(_authorities(settings), cert, settings.tls_key or key_beside(cert))


def of_node(settings: Settings, node_id: str) -> Credentials:
    """Of a node's agent, and of the hosts on it; none where TLS is off."""
    if settings.tls != "on":
        return Credentials(ca=settings.ca)
    own = settings.folder / FOLDER / f"{node_id}{CERT_SUFFIX}"
    cert, key = settings.node_cert.replace("{node}", node_id), settings.node_key.replace("{node}", node_id)
    if not cert and not own.exists():
        return of_service(settings)
    cert = cert or str(own)
    return Credentials(_authorities(settings), cert, key or key_beside(cert))


def key_beside(cert: str) -> str:
    """The file of a certificate's private key, where no setting names one."""
    return str(Path(cert).with_suffix(KEY_SUFFIX))


def _authorities(settings: Settings) -> str:
    own = settings.folder / FOLDER / f"{AUTHORITY}{CERT_SUFFIX}"
    return settings.ca or (str(own) if own.exists() else "")


# -- contexts ----------------------------------------------------------------------------------------------------------


class _Known(NamedTuple):
    context: ssl.SSLContext
    files: tuple[tuple[int, int], ...]


_contexts: dict[tuple[Credentials, bool], _Known] = {}
_lock = threading.Lock()


def renewing_context(credentials: Credentials) -> ssl.SSLContext:
    """For a server that takes one context for all its life, and asks clients for no certificate.

    It shows what is in the files when a client comes.
    """
    context = _make(credentials, for_server=True)
    context.verify_mode = ssl.CERT_NONE

    def renew(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, of: ssl.SSLContext) -> None:
        connection.context = server_context(credentials)

    context.sni_callback = renew
    return context


def _context(credentials: Credentials, *, for_server: bool) -> ssl.SSLContext:
    """What these files are good for now.

    Raises
    ------
    SettingError
        A file cannot be used.
    """
    files = tuple(map(_version, (credentials.ca, credentials.cert, credentials.key)))
    with _lock:
        known = _contexts.get((credentials, for_server))
        if known is not None and known.files == files:
            return known.context
        try:
            made = _make(credentials, for_server=for_server)
        except SettingError as error:
            if known is None:
                raise
            # One of the files is being replaced, or was replaced by one that is of no use.
            log.error("the former certificates are used on: %s", error)
            made = known.context
        _contexts[credentials, for_server] = _Known(made, files)
        return made


#: For connections to servers, whose certificate and name are verified.
client_context = functools.partial(_context, for_server=False)
#: For connections of clients; one that shows a certificate is let in only if that can be verified.
server_context = functools.partial(_context, for_server=True)


def _version(file: str) -> tuple[int, int]:
    if not file:
        return 0, 0
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


def _make(credentials: Credentials, *, for_server: bool) -> ssl.SSLContext:
    ca, cert, key = credentials.ca, credentials.cert, credentials.key
    purpose = ssl.Purpose.CLIENT_AUTH if for_server else ssl.Purpose.SERVER_AUTH
    try:
        context = ssl.create_default_context(purpose, cafile=ca or None)
        if for_server:
            context.verify_mode = ssl.CERT_OPTIONAL
            if not ca:
                context.load_default_certs(purpose)
    except (OSError, ssl.SSLError) as error:
        raise SettingError(f"setting ca: {ca} cannot be used: {_why(error)}.", hint=_HOW) from error
    if not ca and not for_server and not context.cert_store_stats()["x509"]:
        _certifi(context)  # a machine without authorities of its own, as many containers
    if cert:
        try:
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise SettingError(f"certificate {cert} with {key}: cannot be used: {_why(error)}.", hint=_HOW) from error
    return context


_HOW = "`jupyter gpuaas certs init` makes a CA and certificates; docs/tls.md has the rest."


def _certifi(context: ssl.SSLContext) -> None:
    try:
        import certifi
    except ImportError:
        return
    context.load_verify_locations(certifi.where())


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"it is no certificate or key in PEM, or the two do not belong together ({_reason(error)})"
    return error.strerror or str(error)


# -- looking -----------------------------------------------------------------------------------------------------------


def verify(credentials: Credentials, name: str | None, *, by: Credentials | None = None) -> dict[str, Any]:
    """Let a server with these credentials and a client meet in memory, each showing its certificate to the other.

    Parameters
    ----------
    name
        Under which the client knows the server; None for whatever name there is.
    by
        Of the client; the same ones when None.

    Returns
    -------
    What the client sees: see ``ssl.SSLSocket.getpeercert``.

    Raises
    ------
    ssl.SSLError
        They would not trust each other; ``explain`` tells why.
    SettingError
        A file cannot be used.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context(credentials).wrap_bio(to_server, to_client, server_side=True)
    context = client_context(by or credentials)
    if name is None:
        context = _make(by or credentials, for_server=False)
        context.check_hostname = False
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    waiting: list[ssl.SSLObject] = [client, server]
    while waiting:
        for each in list(waiting):
            try:
                each.do_handshake()
                waiting.remove(each)
            except ssl.SSLWantReadError:
                continue
    return dict(client.getpeercert() or {})


def name_for(credentials: Credentials, names: Iterable[str]) -> str:
    """The first of these names that the certificate is good for.

    Raises
    ------
    SettingError
        It is good for none; the message is about the first one.
    """
    first: SettingError | None = None
    for name in names:
        try:
            verify(credentials, name)
            return name
        except ssl.SSLError as error:
            trouble = explain(error, name, credentials.ca) or Trouble(str(error), _HOW)
            first = first or SettingError(f"{credentials.cert}: {trouble.says}.", hint=trouble.do)
    assert first is not None
    raise first


def unusable(credentials: Credentials) -> SettingError | None:
    """Why nobody would trust this certificate, whatever the name; None when somebody would."""
    try:
        verify(credentials, None)
    except ssl.SSLError as error:
        trouble = explain(error, credentials.cert, credentials.ca) or Trouble(str(error), _HOW)
        return SettingError(f"{trouble.says}.", hint=trouble.do)
    return None


def explain(error: BaseException, address: str, ca: str = "") -> Trouble | None:
    """What went wrong with TLS on the way to an address; None when it was something else.

    Parameters
    ----------
    error
        As it came, or what it has become on its way up.
    ca
        By whose authorities the other end was verified.
    """
    for each in _chain(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return _of_verification(each, address, ca)
        if isinstance(each, ssl.SSLError) and not isinstance(each, ssl.SSLWantReadError | ssl.SSLWantWriteError):
            return _of_handshake(each, address)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _of_verification(error: ssl.SSLCertVerificationError, address: str, ca: str) -> Trouble:
    code, host = error.verify_code, address.rpartition(":")[0] or address
    if code == _EXPIRED:
        return Trouble(f"the certificate of {address} has expired", "Renew it there: `jupyter gpuaas certs renew`.")
    if code == _NOT_YET:
        return Trouble(
            f"the certificate of {address} is not valid yet", "Compare the clocks: `jupyter gpuaas doctor` does it."
        )
    if code in _OTHER_NAME:
        return Trouble(
            f"the certificate of {address} is for other names ({error.verify_message})",
            f"Use one of its names in the address, or issue it anew: `jupyter gpuaas certs issue NAME --host {host}`.",
        )
    if code in _UNKNOWN_AUTHORITY:
        by = f"is of an authority that is not in {ca}" if ca else "is of an authority that this machine does not know"
        return Trouble(
            f"the certificate of {address} {by}",
            "GPUAAS_CA is to name the file with the authority of the service: the `ca.pem` of `jupyter gpuaas certs`.",
        )
    if code == _WRONG_PURPOSE:
        return Trouble(
            f"the certificate of {address} is not made for this",
            "Between controller and nodes, it has to be for servers and for clients (extended key usage).",
        )
    return Trouble(f"the certificate of {address} is not to be trusted ({error.verify_message})", _HOW)


def _reason(error: ssl.SSLError) -> str:
    # An error that Python has made itself has none.
    return getattr(error, "reason", None) or str(error)


def _of_handshake(error: ssl.SSLError, address: str) -> Trouble:
    reason = _reason(error)
    if any(part in reason for part in _NOT_TLS):
        return Trouble(f"{address} does not speak TLS", "Its address begins with http://, or its setting tls is off.")
    for part, words in _ALERTS:
        if part in reason:
            return Trouble(
                f"{address} {words}",
                "Controller and nodes have to have certificates of one CA: settings ca, tls_cert and node_cert.",
            )
    return Trouble(f"{address}: no TLS connection ({reason})", "`jupyter gpuaas doctor` may tell more.")


PLAIN_HINT = "If it speaks TLS, its address begins with https:// (setting url)."
