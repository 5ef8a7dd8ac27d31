"""Writes the golden store of the current format: ``python -m tests.golden.make_store FOLDER``.

Run once for each released version of the format; what it wrote is committed as ``store_<format>/`` and never again
touched. ``test_golden.py`` reads them all.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from jupyter_gpuaas.store import FolderStore, blob, seal, seal_record
from jupyter_gpuaas.store.manifest import Costs, GroupEntry, GroupRecord, Manifest, Region, Span, Verdict, World

KEY = b"golden key of no importance 1234"

#: name -> the bytes of its stream and of its region.
NAMES = {
    "noise": (b"stream of noise", random.Random(1).randbytes(1500)),
    "zeros": (b"stream of zeros", bytes(3000)),
    "empty": (b"", b""),
}


def write(folder: Path) -> None:
    store = FolderStore(folder)
    parent = ""
    for number, (name, (stream, region)) in enumerate(NAMES.items(), start=1):
        record = GroupRecord(
            names=(name,),
            stream=blob(stream)[0],
            regions=(Region(blob(region)[0], "cpu", ("ndarray", "|u1", (len(region),), "C")),),
            spans=(Span(0, 0, len(region), False),),
            references=(),
        )
        data = seal_record(record)
        for content in (stream, region, data):
            store.put(blob(content)[1])
        manifest = Manifest(
            id=f"golden-{number}",
            parent=parent,
            created_s=1_700_000_000.5 + number,
            owner="ada",
            session="s1",
            epoch=3,
            cell=number,
            label="first" if number == 1 else "",
            world=World("cpython-3.11", "linux-x86_64", {"numpy": "2.0.0"}, ("cpu",)),
            groups=(GroupEntry((name,), blob(data)[0]),),
            names={name: Verdict("stored"), "gone": Verdict("lost", "it was a socket")},
            costs=Costs(stall_s=0.25, written_bytes=number),
        )
        store.commit(manifest.id, seal(manifest, KEY))
        parent = manifest.id
    store.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
