"""Where checkpoints are kept: chunks by digest and manifests by id, in memory, a folder, or any fsspec URL."""

from .base import CHUNK_BYTES, DIGEST_BYTES, Freed, Store, Usage, Written
from .blob import blob, chunk_digests, destinations, read_blob
from .cache import CachedStore
from .chunkcache import ChunkCache
from .folder import FolderStore
from .memory import MemoryStore
from .opening import open_store
from .peer import PeerStore
from .remote import FsspecStore
from .retention import Kept, Retention, to_forget
from .seal import seal, seal_record, validate, validate_record

__all__ = [
    "CHUNK_BYTES",
    "DIGEST_BYTES",
    "CachedStore",
    "ChunkCache",
    "FolderStore",
    "Freed",
    "FsspecStore",
    "Kept",
    "MemoryStore",
    "PeerStore",
    "Retention",
    "Store",
    "Usage",
    "Written",
    "blob",
    "chunk_digests",
    "destinations",
    "open_store",
    "read_blob",
    "seal",
    "seal_record",
    "to_forget",
    "validate",
    "validate_record",
]
