"""Settings: which source wins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from jupyter_gpuaas import config
from jupyter_gpuaas.errors import SettingError

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def home(folder: Path, content: str = "") -> dict[str, str]:
    (folder / "settings.toml").write_text(content)
    return {"GPUAAS_HOME": str(folder)}


def test_load_nothing_given_gives_the_defaults(tmp_path: Path) -> None:
    settings = config.load(home(tmp_path))
    assert msgspec.structs.replace(settings, home="") == config.Settings()


def test_load_each_source_wins_over_the_weaker_ones(tmp_path: Path) -> None:
    environ = home(tmp_path, "port = 1001\nnodes = 2\nspare_kernels = 3\n")
    assert config.load(environ).port == 1001
    environ |= {"GPUAAS_PORT": "1002", "GPUAAS_NODES": "4"}
    assert config.load(environ).port == 1002
    settings = config.load(environ, port=1003)
    assert (settings.port, settings.nodes, settings.spare_kernels) == (1003, 4, 3)


def test_load_command_line_none_and_empty_environment_mean_not_given(tmp_path: Path) -> None:
    environ = home(tmp_path, "nodes = 2\n") | {"GPUAAS_NODES": ""}
    assert config.load(environ, nodes=None).nodes == 2


def test_load_home_of_the_command_line_chooses_the_file(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    home(other, "nodes = 7\n")
    settings = config.load(home(tmp_path, "nodes = 2\n"), home=str(other))
    assert (settings.nodes, settings.folder) == (7, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "http"),
        ("nodes", "0"),
        ("unattended_s", "0"),
        ("unattended_s", "-1"),
        ("unattended_s", "soon"),
        ("journal_bytes", "0"),
        ("relay", "sometimes"),
        ("on_shutdown", "explode"),
        ("workdir", "/tmp"),
        ("want_devices", "1.5"),
        ("want_devices", "0"),
    ],
)
def test_load_bad_value_is_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingError, match=name):
        config.load(home(tmp_path) | {f"GPUAAS_{name.upper()}": value})


@pytest.mark.parametrize("content", ["colour = 'red'\n", "port = [", "nodes = 'two'\n"])
def test_load_bad_file_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(SettingError):
        config.load(home(tmp_path, content))


def test_load_setting_that_does_not_exist_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        config.load(home(tmp_path, "unattended = 60\n"))
    assert str(tmp_path / "settings.toml") in str(caught.value)
    assert "'unattended'" in str(caught.value) and "unattended_s" in str(caught.value)


def test_environment_carries_every_difference_to_a_child(tmp_path: Path) -> None:
    settings = config.load(home(tmp_path), nodes=3, unattended_s=1.5, devices="cpu:2")
    assert config.load(settings.environment()) == settings


def test_docs_are_those_of_the_code() -> None:
    assert DOCS.read_text("utf-8") == config.page(), "run `python -m jupyter_gpuaas.config > docs/settings.md`"


def test_docs_name_every_setting() -> None:
    page = config.page()
    assert all(f"| `{name}` |" in page for name in config.Settings.__struct_fields__)


def test_a_service_inherits_no_settings_of_its_caller_but_where_criu_is() -> None:
    environ = {"PATH": "/bin", "GPUAAS_URL": "http://a", "JPY_SESSION_NAME": "x", "GPUAAS_CRIU": "/opt/criu"}
    assert config.inherited(environ) == {"PATH": "/bin", "GPUAAS_CRIU": "/opt/criu"}
