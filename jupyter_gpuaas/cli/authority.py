"""The own CA of a service: a folder with its key, its certificate, and the certificates that it has issued.

Needs the package ``cryptography`` (extra ``certs``); nothing else does. Keys are on the curve P-256, which every TLS
library of the last ten years takes.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jupyter_gpuaas.errors import SettingError
from jupyter_gpuaas.wire.tls import AUTHORITY, CERT_SUFFIX, KEY_SUFFIX

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    raise SettingError(
        "certificates are made with the package cryptography, which is not installed.",
        hint="`pip install 'jupyter_gpuaas[certs]'`",
    ) from error

AUTHORITY_DAYS = 3650
DAYS = 365
#: Clocks differ: a certificate counts from so long before it was made.
EARLIER = datetime.timedelta(minutes=10)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate in the folder, as it is shown."""

    name: str
    #: Names and addresses that it is good for; none for an authority.
    hosts: tuple[str, ...]
    issuer: str
    from_s: float
    until_s: float
    serial: str
    file: str
    #: Whether the newest authority of the folder has issued it.
    current: bool


class Authority:
    """The CA in a folder.

    Parameters
    ----------
    now
        Time of what is issued.
    """

    def __init__(self, folder: Path, now: datetime.datetime | None = None) -> None:
        self.folder = folder
        self._now = now or datetime.datetime.now(datetime.timezone.utc)

    # -- the CA ------------------------------------------------------------------------------------------------

    @property
    def there(self) -> bool:
        """Whether there is one."""
        return self._cert(AUTHORITY).exists()

    def init(self, *, days: int = AUTHORITY_DAYS) -> None:
        """Make it.

        Raises
        ------
        SettingError
            There is one.
        """
        if self.there:
            raise SettingError(
                f"{self.folder} has a CA already.", hint="`certs renew` renews certificates, `certs rotate` the CA."
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_authority([], days)

    def rotate(self, *, days: int = AUTHORITY_DAYS) -> None:
        """Make a new CA beside the former one: certificates of both are trusted, the new one issues from now on."""
        self._make_authority(self._authorities(), days)

    def finish(self) -> None:
        """Trust the newest CA only.

        Raises
        ------
        SettingError
            There are certificates of a former one; nothing is changed.
        """
        former = [each.name for each in self.all() if not each.current and each.name != AUTHORITY]
        if former:
            raise SettingError(f"{', '.join(former)}: still of the former CA.", hint="`certs renew` first.")
        _write(self._cert(AUTHORITY), _pem(self._authorities()[:1]), 0o644)

    def _make_authority(self, former: Sequence[x509.Certificate], days: int) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"jupyter_gpuaas CA {serial % 16**8:08x}")])
        made = (
            self._builder(name, name, key.public_key(), serial, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(self._key(AUTHORITY), _private(key), 0o600)
        _write(self._cert(AUTHORITY), _pem([made, *former]), 0o644)

    def _authorities(self) -> list[x509.Certificate]:
        """Newest first."""
        path = self._cert(AUTHORITY)
        try:
            found: list[x509.Certificate] = x509.load_pem_x509_certificates(path.read_bytes())
            return found
        except (OSError, ValueError) as error:
            raise SettingError(f"{path} cannot be read: {error}.", hint="`certs init` makes a CA.") from error

    # -- certificates ------------------------------------------------------------------------------------------

    def issue(self, name: str, hosts: Iterable[str], *, days: int = DAYS) -> Certificate:
        """Issue a certificate, in place of one of this name that was there.

        Raises
        ------
        SettingError
            Name or hosts cannot be used, or there is no CA.
        """
        if not NAME.fullmatch(name) or name == AUTHORITY:
            raise SettingError(f"name {name!r}: is not made of letters, digits, '.', '-' and '_', or is taken.")
        alternatives = [_alternative(host) for host in dict.fromkeys(hosts)]
        if not alternatives:
            raise SettingError("a certificate has to be good for some host.", hint="--host NAME-OR-ADDRESS")
        authority = self._authorities()[0]
        try:
            signer = serialization.load_pem_private_key(self._key(AUTHORITY).read_bytes(), None)
        except (OSError, ValueError) as error:
            raise SettingError(f"{self._key(AUTHORITY)} cannot be read: {error}.") from error
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        if signer.public_key() != authority.public_key():
            raise SettingError(f"{self._key(AUTHORITY)} is not the key of {self._cert(AUTHORITY)}.")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        left = authority.not_valid_after_utc - self._now
        made = (
            self._builder(subject, authority.subject, key.public_key(), x509.random_serial_number(), days, most=left)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(
                # Agents are servers to the controller and clients of each other.
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
        )
        # Who reads between the two finds that they do not belong together, and stays with what it has.
        _write(self._key(name), _private(key), 0o600)
        _write(self._cert(name), _pem([made]), 0o644)
        return self._view(name, made, authority)

    def renew(self, names: Sequence[str] = (), *, days: int = DAYS) -> list[Certificate]:
        """Issue certificates anew, for the hosts that they were for; all of them when none is named."""
        known = {each.name: each for each in self.all() if each.name != AUTHORITY}
        for name in names:
            if name not in known:
                raise SettingError(f"{self.folder} has no certificate {name!r}.", hint="`certs show` tells which.")
        return [self.issue(name, known[name].hosts, days=days) for name in names or known]

    def all(self) -> list[Certificate]:
        """The authorities, newest first, then what was issued, by name."""
        authorities = self._authorities()
        views = [self._view(AUTHORITY, each, authorities[0]) for each in authorities]
        for path in sorted(self.folder.glob(f"*{CERT_SUFFIX}")):
            name = path.name.removesuffix(CERT_SUFFIX)
            # What else somebody has put there is not ours to judge.
            if name != AUTHORITY and self._key(name).exists():
                with contextlib.suppress(ValueError):
                    found = x509.load_pem_x509_certificates(path.read_bytes())[0]
                    views.append(self._view(name, found, authorities[0]))
        return views

    # -- inside ------------------------------------------------------------------------------------------------

    def _builder(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        public: ec.EllipticCurvePublicKey,
        serial: int,
        days: int,
        *,
        most: datetime.timedelta | None = None,
    ) -> x509.CertificateBuilder:
        lasts = datetime.timedelta(days=days)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(serial)
            .not_valid_before(self._now - EARLIER)
            .not_valid_after(self._now + (lasts if most is None else min(lasts, most)))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    def _view(self, name: str, found: x509.Certificate, authority: x509.Certificate) -> Certificate:
        return Certificate(
            name=name,
            hosts=_hosts(found),
            issuer=_common_name(found.issuer),
            from_s=found.not_valid_before_utc.timestamp(),
            until_s=found.not_valid_after_utc.timestamp(),
            serial=f"{found.serial_number:x}",
            file=str(self._cert(name)),
            current=found.issuer == authority.subject,
        )

    def _cert(self, name: str) -> Path:
        return self.folder / f"{name}{CERT_SUFFIX}"

    def _key(self, name: str) -> Path:
        return self.folder / f"{name}{KEY_SUFFIX}"


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        ascii_name = host.encode("idna").decode() if not host.isascii() else host
        if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?", ascii_name):
            raise ValueError(host)
    except (ValueError, UnicodeError):
        raise SettingError(f"host {host!r}: is no name of a host, and no address.") from None
    return x509.DNSName(ascii_name)


def is_host(name: str) -> bool:
    """Whether a certificate can be for it."""
    try:
        _alternative(name)
    except SettingError:
        return False
    return True


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(each.value) for each in names)


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def _usage(*, authority: bool) -> x509.KeyUsage:
    never: dict[str, Any] = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    return x509.KeyUsage(
        digital_signature=not authority, key_encipherment=False, key_cert_sign=authority, crl_sign=authority, **never
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    how = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return bytes(key.private_bytes(*how))


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file as a whole; nobody else may look into it for a moment either."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask says
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
