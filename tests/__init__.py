"""The test suite: `unit` first, real kernels under `jupyter`, broken things under `fault`."""
