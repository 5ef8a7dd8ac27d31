"""``python -m jupyter_gpuaas``: the same as ``jupyter gpuaas``."""

from jupyter_gpuaas.cli import main

if __name__ == "__main__":
    main()
