"""``python -m jupyter_gpuaas.kernel -f FILE``: the kernel of a session, started by its host."""

from .app import GpuKernelApp

if __name__ == "__main__":
    GpuKernelApp.launch_instance()
