"""A Ray cluster as the pool. Only ``cluster`` and ``actors`` import Ray, and only when they are used."""
