"""A session's journal as text, for ``jupyter gpuaas logs``."""

from __future__ import annotations

from ..wire.jupyter import read_header, read_json
from ..wire.record import Kind, Record


def as_text(record: Record) -> str:
    """What a person would have seen of this record in a console; empty for most."""
    if record.kind is Kind.NOTICE:
        gap = read_json(record.parts[0])
        return f"\n[remote GPU] messages {gap['first']} to {gap['last']} were dropped: the journal was full\n"
    if record.kind not in (Kind.IOPUB, Kind.REQUEST):
        return ""
    msg_type = read_header(record.parts[1]).msg_type
    content = read_json(record.parts[4])
    if msg_type == "stream":
        return str(content["text"])
    if msg_type == "execute_input":
        first, *more = str(content["code"]).split("\n")
        count = f"In [{content['execution_count']}]: "
        indent = " " * (len(count) - 5) + "...: "
        return "\n" + "\n".join([count + first, *(indent + line for line in more)]) + "\n"
    if msg_type == "execute_result":
        return f"Out[{content['execution_count']}]: {content['data'].get('text/plain', '')}\n"
    if msg_type == "display_data":
        return f"{content['data'].get('text/plain', '')}\n"
    if msg_type == "error":
        return "\n".join(content["traceback"]) + "\n"
    return ""
