"""Every format that was ever released can be read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jupyter_gpuaas.store import FolderStore, read_blob, validate, validate_record
from jupyter_gpuaas.store.manifest import FORMAT

from .make_store import KEY, NAMES

HERE = Path(__file__).parent


@pytest.mark.parametrize("index", ["with index", "without index"])
@pytest.mark.parametrize("version", range(1, FORMAT + 1))
def test_golden_store_is_read(version: int, index: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(HERE / f"store_{version}", tmp_path / "store"))
    if index == "without index":
        for path in (folder / "packs").glob("*.idx"):
            path.unlink()
    store = FolderStore(folder)
    assert store.manifests() == ["golden-1", "golden-2", "golden-3"]
    for number, (name, (stream, region)) in enumerate(NAMES.items(), start=1):
        manifest = validate(store.manifest(f"golden-{number}"), KEY, expected_id=f"golden-{number}")
        assert (manifest.cell, manifest.owner, manifest.created_s) == (number, "ada", 1_700_000_000.5 + number)
        assert manifest.names["gone"].note == "it was a socket"
        assert manifest.costs.stall_s == 0.25
        (entry,) = manifest.groups
        record = validate_record(read_blob(store, entry.record))
        assert record.names == entry.names == (name,)
        assert read_blob(store, record.stream) == stream
        assert read_blob(store, record.regions[0].content) == region
    store.close()
