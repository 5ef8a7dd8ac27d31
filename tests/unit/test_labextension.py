"""The front end's package: what must agree, between its files and with the Python package."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import jupyter_gpuaas

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "labextension"
BUILT = ROOT / "jupyter_gpuaas" / "labextension"
INSTALLED = Path(sys.prefix) / "share" / "jupyter" / "labextensions" / "jupyter-gpuaas"


def content(path: Path) -> Any:
    return json.loads(path.read_text())


def plugin_ids() -> set[str]:
    texts = [path.read_text() for path in (SOURCES / "src" / "plugins").glob("*.ts*")]
    return {found for text in texts for found in re.findall(r"^  id: '([^']+)'", text, re.MULTILINE)}


def test_the_version_is_that_of_the_python_package() -> None:
    assert content(SOURCES / "package.json")["version"] == jupyter_gpuaas.__version__


def test_what_is_shared_with_jupyterlab_is_declared_from_the_oldest_version_on() -> None:
    package, floor = content(SOURCES / "package.json"), content(SOURCES / "core-floor.json")

    assert floor["dependencies"] == package["dependencies"]  # one that lacks would be bundled, silently
    assert set(floor["jupyterlab"]["singletonPackages"]) == set(package["dependencies"])


def test_what_the_sources_import_is_a_dependency() -> None:
    imported = set()
    for path in (SOURCES / "src").rglob("*.ts*"):
        if "__tests__" not in path.parts:
            imported |= set(re.findall(r"from '((?:@[^/']+/)?[^./'][^/']*)", path.read_text()))

    assert imported == set(content(SOURCES / "package.json")["dependencies"])


def test_the_lock_file_names_no_registry() -> None:
    lock = (SOURCES / "yarn.lock").read_text()

    assert not re.search(r"__archiveUrl|https?://", lock)


def test_each_schema_is_of_a_plugin() -> None:
    schemas = {f"jupyter-gpuaas:{path.stem}" for path in (SOURCES / "schema").glob("*.json")}

    assert schemas
    assert schemas <= plugin_ids()


def test_no_style_names_a_colour_of_its_own() -> None:
    for path in (SOURCES / "style").glob("*.css"):
        assert not re.search(r"#[0-9a-fA-F]{3,8}\b|\brgba?\(|\bhsla?\(", path.read_text()), path.name


@pytest.mark.skipif(not BUILT.exists(), reason="the front end is not built here; `make labextension` does it")
class TestBuilt:
    def test_it_has_what_jupyterlab_loads(self) -> None:
        load = content(BUILT / "package.json")["jupyterlab"]["_build"]["load"]

        assert (BUILT / load).is_file()
        assert (BUILT / "schemas" / "jupyter-gpuaas" / "toolbar.json").is_file()

    def test_it_asks_for_no_newer_jupyterlab_than_declared(self) -> None:
        entry = next((BUILT / "static").glob("remoteEntry.*.js")).read_text()

        assert "^4.4.0" in entry
        assert not re.search(r"\^4\.[5-9]\.\d+\",.{0,40}@jupyterlab/notebook", entry)

    def test_it_is_installed_where_jupyterlab_looks(self) -> None:
        assert content(INSTALLED / "package.json")["version"] == jupyter_gpuaas.__version__
        assert (INSTALLED / "install.json").is_file()
