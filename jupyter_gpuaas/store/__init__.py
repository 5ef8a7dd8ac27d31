"""Where checkpoints are kept: chunks by digest and manifests by id, in memory, a folder, or any fsspec URL."""
