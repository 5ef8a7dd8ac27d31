"""Where checkpoints are kept: chunks by digest and manifests by id, in memory, a folder, or any fsspec URL."""

from .base import CHUNK_BYTES, DIGEST_BYTES, Freed, Store, Usage, Written
from .blob import blob, chunk_digests, destinations, read_blob
from .folder import FolderStore
from .memory import MemoryStore
from .seal import seal, seal_record, validate, validate_record

__all__ = [
    "CHUNK_BYTES",
    "DIGEST_BYTES",
    "FolderStore",
    "Freed",
    "MemoryStore",
    "Store",
    "Usage",
    "Written",
    "blob",
    "chunk_digests",
    "destinations",
    "read_blob",
    "seal",
    "seal_record",
    "validate",
    "validate_record",
]
