"""What each system restores of a notebook: right, loud, or silently wrong. One row a case, one column a system.

``python benchmarks/cases.py [--systems ...] [--only KIND ...] [--json]``. Each case is set up and saved in one fresh
process and restored and checked in another (``tests/state/``, ``docs/cases.md``). The first run makes virtual
environments with pinned versions for the systems that are not ours.

    ok         exactly what it was
    rebuilt    made anew, said so, and works as before
    replayed   made by running cells again, said so
    loud       an error or a report says that it is not there
    WRONG      restored without a word, but not what it was
    GONE       missing without a word
    HANGS      the save or the restored object blocks for ever
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER / "cases"), str(FOLDER.parent)]

import hardware  # noqa: E402
from environments import PINNED, DoesNotInstall, environment  # noqa: E402

from tests.state.cases import Case, load_cases  # noqa: E402
from tests.state.fresh import Processes, Verdict  # noqa: E402

SYSTEMS = {
    "ours": "jupyter_gpuaas",
    "dill": "dill.dump_module",
    "cloudpickle": "cloudpickle",
    "kishu": "Kishu",
    "elasticnotebook": "ElasticNotebook",
}
WORDS = {
    "exact": "ok",
    "rebuilt": "rebuilt",
    "replayed": "replayed",
    "reported": "loud",
    "refused": "loud",
    "died": "loud",
    "wrong": "**WRONG**",
    "gone": "**GONE**",
    "hung": "**HANGS**",
}
RIGHT, LOUD, WRONG = ("exact", "rebuilt", "replayed"), ("reported", "refused", "died"), ("wrong", "gone", "hung")
#: Cases under way: one is saved while another is restored.
AT_A_TIME = 2
PACKAGES = ("jupyter_gpuaas", "dill", "cloudpickle", "numpy", "pandas", "polars", "torch", "scikit-learn", "numba")


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = load_cases()
    kinds = list(dict.fromkeys(case.kind for case in cases))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--only", nargs="+", metavar="KIND", choices=kinds, default=kinds, help=", ".join(kinds))
    parser.add_argument("--json", action="store_true", help="print JSON, with a reason for each cell")
    parser.add_argument("--details", action="store_true", help="print the reason for each cell that is not right")
    asked = parser.parse_args()

    wanted = [case for case in cases if case.kind in asked.only]
    left_out = [case.id for case in wanted if not _possible(case)]
    wanted = [case for case in wanted if _possible(case)]
    verdicts: dict[str, dict[str, Verdict]] = {}
    absent: dict[str, str] = {}
    for system in asked.systems:
        try:
            with _processes(system) as processes:
                verdicts[system] = dict(_run(processes, system, wanted))
        except DoesNotInstall as error:
            absent[system] = f"does not install: {error}"
    head = hardware.describe() | {"packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES if _has(name))}
    head |= {f"{SYSTEMS[name]}'s packages": ", ".join(PINNED[name]) for name in verdicts if name in PINNED}
    head |= {SYSTEMS[name]: reason for name, reason in absent.items()}
    if left_out:
        head["left out for want of packages"] = ", ".join(left_out)
    totals = {system: _totals(found) for system, found in verdicts.items()}
    if asked.json:
        rows = [
            {
                "kind": case.kind,
                "case": case.name,
                "allowed": sorted(case.allowed),
                "systems": {
                    system: {"outcome": found[case.id].outcome, "detail": found[case.id].detail}
                    for system, found in verdicts.items()
                },
            }
            for case in wanted
        ]
        print(json.dumps({"header": head, "cases": rows, "totals": totals}, indent=2))
        return
    print("\n".join(f"{name}: {value}" for name, value in head.items()) + "\n")
    print(_table(wanted, verdicts, totals))
    if asked.details:
        print()
        for system, found in verdicts.items():
            for case in wanted:
                if found[case.id].outcome not in RIGHT:
                    print(f"{system} | {case.id} | {found[case.id].outcome} | {found[case.id].detail}")


def _has(package: str) -> bool:
    module = {"scikit-learn": "sklearn"}.get(package, package)
    return importlib.util.find_spec(module) is not None


def _possible(case: Case) -> bool:
    return all(_has(package) for package in case.needs)


@contextlib.contextmanager
def _processes(system: str) -> Iterator[Processes]:
    python = environment(system) if system in PINNED else sys.executable
    with Processes(python, [FOLDER / "cases" / "peers.py"]) as processes:
        yield processes


def _run(processes: Processes, system: str, cases: list[Case]) -> Iterator[tuple[str, Verdict]]:
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        under_way = pool.map(lambda case: processes.run(system, case), cases)
        for number, (case, verdict) in enumerate(zip(cases, under_way, strict=True), 1):
            if sys.stderr.isatty():
                print(f"\r\x1b[K{system} {number}/{len(cases)} {case.id}", end="", file=sys.stderr, flush=True)
            yield case.id, verdict
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _totals(found: dict[str, Verdict]) -> dict[str, int]:
    counted = Counter(verdict.outcome for verdict in found.values())
    return {
        word: sum(counted[outcome] for outcome in outcomes)
        for word, outcomes in (("right", RIGHT), ("loud", LOUD), ("silently wrong", WRONG))
    }


def _table(cases: list[Case], verdicts: dict[str, dict[str, Verdict]], totals: dict[str, dict[str, int]]) -> str:
    lines = [["kind", "case", *(SYSTEMS[system] for system in verdicts)]]
    for case in cases:
        lines.append([case.kind, case.name, *(WORDS[found[case.id].outcome] for found in verdicts.values())])
    for word in ("right", "loud", "silently wrong"):
        lines.append([f"all {len(cases)}", word, *(str(total[word]) for total in totals.values())])
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    shown.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(shown)


if __name__ == "__main__":
    main()
