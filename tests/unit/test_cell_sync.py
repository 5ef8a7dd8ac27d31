"""Which files a sync sends, and which local modules go with a cell."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jupyter_gpuaas.cell.modules import LocalModules, describe
from jupyter_gpuaas.cell.outputs import missing_file_hint
from jupyter_gpuaas.cell.sync import Plan, Synchroniser
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import CellError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def paths(plan: Plan) -> list[str]:
    return [file.path for file in plan.files]


def test_whole_folder_without_what_is_always_ignored(root: Path) -> None:
    write(root, "a.csv", "sub/b.csv", ".git/config", "__pycache__/x.pyc", ".ipynb_checkpoints/n.ipynb", ".venv/bin/x")
    assert paths(Synchroniser(root, Settings()).plan()) == ["a.csv", "sub/b.csv"]


def test_ignore_file_has_the_rules_of_gitignore(root: Path) -> None:
    write(root, "a.csv", "b.bin", "keep.bin", "data/x.csv", "data/y.csv", "deep/data/x.csv", "logs/1.txt")
    (root / ".gpuaasignore").write_text("# comment\n*.bin\n!keep.bin\n/data/x.csv\nlogs/\n")
    assert paths(Synchroniser(root, Settings()).plan()) == [
        ".gpuaasignore",
        "a.csv",
        "data/y.csv",
        "deep/data/x.csv",
        "keep.bin",
    ]


def test_named_path_is_taken_even_if_ignored(root: Path) -> None:
    write(root, "a.bin", "data/b.bin", "data/c.csv")
    (root / ".gpuaasignore").write_text("*.bin\n")
    assert paths(Synchroniser(root, Settings()).plan(["a.bin", "data", "a.bin"])) == ["a.bin", "data/c.csv"]


@pytest.mark.parametrize("path", ["..", "/etc/hostname", "../notebooks2/x", "sub/../../x"])
def test_path_outside_the_folder_is_an_error(root: Path, path: str) -> None:
    with pytest.raises(CellError, match="outside the notebook's folder"):
        Synchroniser(root, Settings()).plan([path])


def test_path_that_does_not_exist_is_an_error(root: Path) -> None:
    with pytest.raises(CellError, match=r"'nope\.csv' does not exist"):
        Synchroniser(root, Settings()).plan(["nope.csv"])


def test_links_out_of_the_folder_are_refused_with_their_reason(root: Path, tmp_path: Path) -> None:
    write(tmp_path, "secret")
    write(root, "real.csv", "sub/x.csv")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    (root / "in").symlink_to("real.csv")
    (root / "same").symlink_to("sub")
    (root / "broken").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    plan = Synchroniser(root, Settings()).plan()
    assert paths(plan) == ["in", "real.csv", "sub/x.csv"]
    assert set(plan.refused) == {"out", "up", "same", "broken", "pipe"}
    assert "outside" in plan.refused["out"] and "outside" in plan.refused["up"]
    assert "neither" in plan.refused["pipe"]


def test_digest_is_kept_until_size_or_time_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, "a.csv")
    synchroniser = Synchroniser(root, Settings())
    first = synchroniser.plan().files[0]
    read: list[Path] = []
    from jupyter_gpuaas.cell import sync

    real = sync.digest_file
    monkeypatch.setattr(sync, "digest_file", lambda path: (read.append(path), real(path))[1])
    assert synchroniser.plan().files == [first]
    assert read == []
    (root / "a.csv").write_text("other")
    assert synchroniser.plan().files[0].digest != first.digest
    assert read == [root / "a.csv"]


def test_permission_to_execute_is_told(root: Path) -> None:
    write(root, "run.sh", "x.txt")
    (root / "run.sh").chmod(0o755)
    assert [file.executable for file in Synchroniser(root, Settings()).plan().files] == [True, False]


def test_bounds_name_their_setting(root: Path) -> None:
    write(root, "aaaa", "bbbb")
    files = Synchroniser(root, Settings()).plan().files
    with pytest.raises(CellError, match="setting sync_files allows 1"):
        Synchroniser(root, Settings(sync_files=1)).check_bounds(files)
    with pytest.raises(CellError, match="setting sync_bytes allows 7"):
        Synchroniser(root, Settings(sync_bytes=7)).check_bounds(files)
    Synchroniser(root, Settings(sync_bytes=8, sync_files=2)).check_bounds(files)


def test_file_that_grows_meanwhile_is_not_sent_torn(root: Path) -> None:
    write(root, "a.csv")
    synchroniser = Synchroniser(root, Settings())
    (file,) = synchroniser.plan().files
    (root / "a.csv").write_text("longer than before")
    with pytest.raises(CellError, match=r"a\.csv changes"):
        synchroniser.content(file)


@pytest.mark.parametrize("size", [0, 10, 5_000_000])
def test_content_is_the_file(root: Path, size: int) -> None:
    (root / "a.bin").write_bytes(b"x" * size)
    synchroniser = Synchroniser(root, Settings())
    assert bytes(synchroniser.content(synchroniser.plan().files[0])) == b"x" * size


# -- local modules -------------------------------------------------------------------------------


@pytest.fixture
def modules(root: Path, monkeypatch: pytest.MonkeyPatch) -> LocalModules:
    sources = {
        "a.py": "import b\nfrom pkg import inner\nimport numpy, os",
        "b.py": "import a\n",  # A circle.
        "pkg/__init__.py": "",
        "pkg/inner.py": "from . import other\nfrom .deep.leaf import x",
        "pkg/other.py": "",
        "pkg/deep/__init__.py": "",
        "pkg/deep/leaf.py": "from ...pkg import other\nx = 1",
        "src/far.py": "import a",
        "os.py": "raise RuntimeError",
        "broken.py": "def (",
        "lib/site-packages/third.py": "",
        "space/member.py": "",
    }
    for path, source in sources.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(source)
    monkeypatch.setattr("sys.path", ["", str(root / "src"), str(root / "lib" / "site-packages"), "/nowhere"])
    return LocalModules(root)


def test_modules_come_with_what_they_import_first(modules: LocalModules) -> None:
    used = [module.path for module in modules.used({"a"})]
    assert set(used) == {
        "a.py",
        "b.py",
        "pkg/__init__.py",
        "pkg/inner.py",
        "pkg/other.py",
        "pkg/deep/__init__.py",
        "pkg/deep/leaf.py",
    }
    assert used.index("pkg/other.py") < used.index("pkg/inner.py") < used.index("a.py")
    assert used.index("pkg/deep/leaf.py") < used.index("pkg/inner.py")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("os", []),
        ("numpy", []),
        ("third", []),
        ("nowhere", []),
        ("broken", ["broken.py"]),
        ("pkg.other.function", ["pkg/__init__.py", "pkg/other.py"]),
        ("space.member", ["space/member.py"]),
    ],
)
def test_only_local_files_count(modules: LocalModules, name: str, expected: list[str]) -> None:
    assert [module.path for module in modules.used({name})] == expected


def test_folder_of_a_module_is_told(modules: LocalModules) -> None:
    folders = {module.path: module.folder for module in modules.used({"far"})}
    assert folders["src/far.py"] == "src"
    assert folders["a.py"] == "."


def test_changed_module_has_another_digest_and_other_imports(root: Path, modules: LocalModules) -> None:
    (before,) = [describe(root, module)[0] for module in modules.used({"pkg.other"})][1:]
    (root / "pkg/other.py").write_text("import broken\n")
    used = modules.used({"pkg.other"})
    assert "broken.py" in [module.path for module in used]
    after = next(describe(root, module)[0] for module in used if module.path == "pkg/other.py")
    assert after.digest != before.digest


# -- hints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[Errno 2] No such file or directory: 'data/x.csv'", "%remote_gpu sync data/x.csv"),
        ("[Errno 2] No such file or directory: 'my data.csv'", '%remote_gpu sync "my data.csv"'),
        ("unable to open file: name = 'data/x.csv', errno = 2", "%remote_gpu sync data/x.csv"),
        ("[Errno 2] No such file or directory: '../above.csv'", "outside the notebook's folder"),
    ],
)
def test_missing_file_that_is_here_gets_a_hint(root: Path, text: str, word: str) -> None:
    write(root, "data/x.csv", "my data.csv", "../above.csv")
    (hint,) = missing_file_hint(text, root)
    assert word in hint


def test_missing_file_that_is_nowhere_gets_no_hint(root: Path) -> None:
    assert missing_file_hint("[Errno 2] No such file or directory: 'nope.csv'", root) == []
