"""Certificates: made, verified, renewed, and what is said when one is not to be trusted."""

from __future__ import annotations

import datetime
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from jupyter_gpuaas.cli.authority import AUTHORITY_DAYS, Authority
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import SettingError
from jupyter_gpuaas.wire import tls
from jupyter_gpuaas.wire.tls import Credentials, explain, key_beside, name_for, unusable, verify
from tests.certificates import issued, own_ca


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return own_ca(tmp_path, "gpu.example.org", "127.0.0.1", "::1")


def credentials(authority: Authority, name: str = "service") -> Credentials:
    cert = str(authority.folder / f"{name}.pem")
    return Credentials(str(authority.folder / "ca.pem"), cert, key_beside(cert))


def refused(shown: Credentials, name: str | None = "127.0.0.1", *, by: Credentials | None = None) -> tls.Trouble:
    """Why the two do not trust each other, in words."""
    with pytest.raises(ssl.SSLError) as raised:
        verify(shown, name, by=by)
    trouble = explain(raised.value, f"{name}:8700", (by or shown).ca)
    assert trouble is not None and trouble.do and not trouble.says.endswith(".")
    return trouble


# -- the own CA --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpu.example.org", "127.0.0.1", "::1"])
def test_issued_certificate_is_trusted_under_each_of_its_names(authority: Authority, name: str) -> None:
    seen = verify(credentials(authority), name)
    assert {value for _, value in seen["subjectAltName"]} == {"gpu.example.org", "127.0.0.1", "0:0:0:0:0:0:0:1"}


def test_keys_are_for_their_user_only_and_certificates_for_all(authority: Authority) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in authority.folder.iterdir()}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644, "service.key": 0o600, "service.pem": 0o644}
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700


def test_second_init_changes_nothing(authority: Authority) -> None:
    before = (authority.folder / "ca.key").read_bytes()
    with pytest.raises(SettingError, match="has a CA already"):
        authority.init()
    assert (authority.folder / "ca.key").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "hosts", "told"),
    [
        ("ca", ["x"], "name 'ca'"),
        ("../x", ["x"], "name '../x'"),
        (".hidden", ["x"], "name '.hidden'"),
        ("n", [], "good for some host"),
        ("n", ["not a host"], "host 'not a host'"),
        ("n", ["a/b"], "host 'a/b'"),
        ("n", [""], "host ''"),
    ],
)
def test_issue_of_what_cannot_be_is_refused_by_name(
    authority: Authority, name: str, hosts: list[str], told: str
) -> None:
    before = sorted(path.name for path in authority.folder.iterdir())
    with pytest.raises(SettingError, match=told.replace(".", r"\.")):
        authority.issue(name, hosts)
    assert sorted(path.name for path in authority.folder.iterdir()) == before


def test_issue_without_a_ca_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as raised:
        Authority(tmp_path / "certs").issue("n", ["h"])
    assert "certs init" in raised.value.hint


def test_certificate_does_not_outlive_its_ca(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    Authority(tmp_path, now - datetime.timedelta(days=AUTHORITY_DAYS - 10)).init()
    made = Authority(tmp_path, now).issue("n", ["h"], days=365)
    assert made.until_s <= now.timestamp() + 10 * 86400 + 1


def test_renewed_certificate_is_another_one_for_the_same_hosts(authority: Authority) -> None:
    (before,) = [each for each in authority.all() if each.name == "service"]
    key = (authority.folder / "service.key").read_bytes()
    (after,) = authority.renew()
    assert (after.hosts, after.serial != before.serial) == (before.hosts, True)
    assert (authority.folder / "service.key").read_bytes() != key
    verify(credentials(authority), "gpu.example.org")
    with pytest.raises(SettingError, match="no certificate 'other'"):
        authority.renew(["other"])


def test_ca_is_replaced_without_a_moment_in_which_somebody_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    old_copy = tmp_path / "copy-of-a-client.pem"
    old_copy.write_bytes((authority.folder / "ca.pem").read_bytes())
    authority.rotate()
    service = credentials(authority)
    verify(service, "127.0.0.1")  # of the former CA, by both
    verify(service, "127.0.0.1", by=Credentials(str(old_copy)))
    with pytest.raises(SettingError, match="service: still of the former CA"):
        authority.finish()
    authority.renew()
    verify(service, "127.0.0.1")  # of the new one, by both
    assert "authority" in refused(service, by=Credentials(str(old_copy))).says
    authority.finish()
    verify(service, "127.0.0.1")
    assert [each.current for each in authority.all()] == [True, True]


# -- what is not to be trusted -----------------------------------------------------------------------------------------


def test_expired_certificate_is_said_to_be_expired(tmp_path: Path) -> None:
    old = issued(tmp_path, days_ago=40, days=30)
    trouble = refused(old)
    assert "expired" in trouble.says and "certs renew" in trouble.do
    assert "expired" in str(unusable(old))


def test_certificate_of_the_future_points_at_the_clocks(tmp_path: Path) -> None:
    trouble = refused(issued(tmp_path, days_ago=-2))
    assert "not valid yet" in trouble.says and "clocks" in trouble.do


def test_certificate_under_another_name_tells_how_to_issue_one_for_it(authority: Authority) -> None:
    trouble = refused(credentials(authority), "other.example.org")
    assert "other names" in trouble.says and "--host other.example.org" in trouble.do
    assert unusable(credentials(authority)) is None
    with pytest.raises(SettingError, match="other names"):
        name_for(credentials(authority), ["other.example.org", "another.example.org"])
    assert name_for(credentials(authority), ["other.example.org", "127.0.0.1"]) == "127.0.0.1"


def test_certificate_of_another_ca_names_the_setting(authority: Authority, tmp_path: Path) -> None:
    other = issued(tmp_path / "other")
    by_file = refused(credentials(authority), by=Credentials(other.ca))
    assert other.ca in by_file.says and "GPUAAS_CA" in by_file.do
    by_machine = refused(credentials(authority), by=Credentials())
    assert "this machine does not know" in by_machine.says


def test_client_with_a_certificate_of_another_ca_is_not_let_in(authority: Authority, tmp_path: Path) -> None:
    own, other = credentials(authority), issued(tmp_path / "other")
    verify(own, "127.0.0.1", by=Credentials(own.ca))  # one that shows none is
    assert "authority" in refused(own, by=Credentials(own.ca, other.cert, other.key)).says


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_server_without_tls_is_said_to_have_none(answer: bytes) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.client_context(Credentials()).wrap_bio(incoming, outgoing, server_hostname="h")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write(answer)
    with pytest.raises(ssl.SSLError) as raised:
        client.do_handshake()
    trouble = explain(raised.value, "h:1")
    assert trouble is not None and trouble.says == "h:1 does not speak TLS" and "http://" in trouble.do


def test_explain_finds_the_error_that_others_were_made_of() -> None:
    inner = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]")
    try:
        try:
            raise inner
        except ssl.SSLError as error:
            raise ConnectionError("wrapped") from error
    except ConnectionError as wrapped:
        assert explain(wrapped, "h:1") is not None
    assert explain(ConnectionRefusedError("no"), "h:1") is None


# -- whose, and from when on -------------------------------------------------------------------------------------------


def test_credentials_are_those_of_the_settings_else_of_the_own_ca(tmp_path: Path) -> None:
    own = tmp_path / "certs"
    assert tls.of_service(Settings(home=str(tmp_path))) == Credentials()
    on = Settings(home=str(tmp_path), tls="on")
    assert tls.of_service(on) == Credentials("", str(own / "service.pem"), str(own / "service.key"))
    assert tls.of_node(on, "a1") == tls.of_service(on)
    authority = own_ca(tmp_path)
    authority.issue("a1", ["10.0.0.1"])
    assert tls.of_node(on, "a1") == Credentials(str(own / "ca.pem"), str(own / "a1.pem"), str(own / "a1.key"))
    assert tls.of_node(on, "b2").cert == str(own / "service.pem")
    site = Settings(home=str(tmp_path), tls="on", ca="/s/ca", tls_cert="/s/c.pem", node_cert="/n/{node}.crt")
    assert tls.of_service(site) == Credentials("/s/ca", "/s/c.pem", "/s/c.key")
    assert tls.of_node(site, "a1") == Credentials("/s/ca", "/n/a1.crt", "/n/a1.key")
    assert tls.of_client(site) == Credentials("/s/ca")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "service.key").unlink(), "No such file"),
        (lambda folder: (folder / "service.pem").write_text("nothing"), "no certificate or key"),
        (lambda folder: (folder / "ca.pem").write_text("nothing"), "setting ca"),
    ],
)
def test_file_that_cannot_be_used_is_named(authority: Authority, spoil: Callable[[Path], object], told: str) -> None:
    spoil(authority.folder)
    with pytest.raises(SettingError, match=told) as raised:
        tls.server_context(credentials(authority))
    assert str(authority.folder) in raised.value.message and raised.value.hint


def test_context_takes_what_was_renewed_and_keeps_what_it_has_when_that_is_of_no_use(authority: Authority) -> None:
    own = credentials(authority)
    first = verify(own, "127.0.0.1")["serialNumber"]
    kept = tls.server_context(own)
    assert tls.server_context(own) is kept
    (renewed,) = authority.renew()
    assert int(verify(own, "127.0.0.1")["serialNumber"], 16) == int(renewed.serial, 16) != int(first, 16)
    (authority.folder / "service.key").write_text("half a key")
    assert int(verify(own, "127.0.0.1")["serialNumber"], 16) == int(renewed.serial, 16)
    (again,) = authority.renew()
    assert int(verify(own, "127.0.0.1")["serialNumber"], 16) == int(again.serial, 16)


def test_server_that_keeps_its_context_shows_the_renewed_certificate(authority: Authority) -> None:
    own = credentials(authority)
    context = tls.renewing_context(own)
    (renewed,) = authority.renew()
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    # By an address: then the client says no name.
    client = tls.client_context(own).wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    for each in (client, server, client, server):
        try:
            each.do_handshake()
        except ssl.SSLWantReadError:
            continue
    seen = client.getpeercert()
    assert seen is not None and int(str(seen["serialNumber"]), 16) == int(renewed.serial, 16)
