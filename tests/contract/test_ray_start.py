"""Ray has the commands, options and settings that docs/deploy says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.ray_cluster import RAY_WARNINGS, need_ray

pytestmark = [pytest.mark.ray, *RAY_WARNINGS]
FOLDER = Path(__file__).parents[2] / "docs" / "deploy"


def commands(text: str, command: str) -> list[list[str]]:
    """The words of each such command in the blocks of a page."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if command in line]
    return [words[words.index(command.split()[-1]) + 1 :] for words in found]


def options_of(command: str) -> set[str]:
    from ray.scripts.scripts import cli

    return {option for each in cli.commands[command].params for option in each.opts}


def test_pages_use_options_that_ray_start_has() -> None:
    need_ray()
    known = options_of("start")
    starts = commands((FOLDER / "ray.md").read_text(), "ray start")
    (symmetric,) = commands((FOLDER / "slurm.md").read_text(), "ray symmetric-run")
    before = symmetric[: symmetric.index("--")]
    assert len(starts) == 2 and "--head" in starts[0] and "jupyter" in symmetric
    for words in (*starts, before):
        said = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert said - known - {"--min-nodes"} == set(), words
    assert {"--address", "--min-nodes"} <= options_of("symmetric-run")
    assert not {"--head", "--port", "--block", "--node-ip-address"} & set(before)  # which it sets itself
    cluster = next(
        each for each in yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text()) if each["kind"] == "RayCluster"
    )
    for group in (cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]):
        assert {f"--{name}" for name in group["rayStartParams"]} <= known


def test_pages_use_settings_that_ray_has() -> None:
    need_ray()
    import ray

    folder = Path(ray.__file__).parent
    places = (
        folder / "scripts" / "symmetric_run.py",
        *folder.glob("_private/**/*.py"),
        *folder.glob("_common/**/*.py"),
    )
    known = b"".join(path.read_bytes() for path in (folder / "_raylet.so", *places))
    text = "".join(path.read_text() for path in FOLDER.iterdir() if path.suffix in (".md", ".yaml"))
    named = set(re.findall(r"\bRAY_[A-Za-z_]+\b", text)) - {"RAY_"}
    assert {"RAY_health_check_period_ms", "RAY_gcs_storage_path", "RAY_AUTH_MODE"} <= named
    unknown = {name for name in named if name.encode() not in known and name.removeprefix("RAY_").encode() not in known}
    assert unknown == set()
