"""Capture and restore of a whole kernel process: CRIU, and CUDA's own checkpoint calls. docs/process-images.md.

``criu.find_criu`` says whether this node can; ``image_kernel.ImageKernel`` is the kernel that a host starts, dumps and
restores. Nothing is imported here: the relay, which is part of every image, should stay small.
"""
