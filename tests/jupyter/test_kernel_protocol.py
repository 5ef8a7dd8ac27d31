"""The public suite of the messaging protocol, against the kernelspec ``remote_gpu``.

The samples are kept apart from the kernel's name, so that a failure can be tried on a plain
kernel: ``GPUAAS_TEST_KERNEL=python3 pytest tests/jupyter/test_kernel_protocol.py``.
"""

from __future__ import annotations

import os

import pytest
from jupyter_kernel_test import IopubWelcomeTests, KernelTests

from tests.conftest import GpuaasHome
from tests.fault.test_sessions_go_on import until

KERNEL = os.environ.get("GPUAAS_TEST_KERNEL", "remote_gpu")

pytestmark = pytest.mark.usefixtures("running")


@pytest.fixture(scope="module")
def running(module_gpuaas_home: GpuaasHome) -> None:
    """A service with a kernel ahead: what a cell is told that has to wait for one is no message of the suite's."""
    module_gpuaas_home.cli("up", "--detach")
    until(lambda: any("jupyter_gpuaas.kernel" in each.cmdline() for each in module_gpuaas_home.processes()))


class PythonSamples:
    """What a Python kernel is asked, and what it should say."""

    language_name = "python"
    file_extension = ".py"

    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('to stderr', file=sys.stderr)"

    completion_samples = [
        {"text": "zi", "matches": {"zip"}},
        {"text": "import json; json.loa", "matches": {"load", "loads"}},
    ]

    complete_code_samples = ["1", "print('hello')", "def f(x):\n  return x\n\n\n", "%time 1"]
    incomplete_code_samples = [
        "print('''hello",
        "def f(x):\n  x*2",
        "for n in range(3):",
        "[1, 2,",
        "async def f():",
    ]
    invalid_code_samples = ["import = 7q", "x = )", "a b c"]

    code_page_something = "zip?"
    code_generate_error = "raise ValueError('on purpose')"

    code_execute_result = [
        {"code": "6*7", "result": "42"},
        {"code": "'a' 'b'", "result": "'ab'"},
        {"code": "[n for n in range(3)]", "result": "[0, 1, 2]"},
        {
            "code": "from IPython.display import HTML; HTML('<b>bold</b>')",
            "result": "<b>bold</b>",
            "mime": "text/html",
        },
    ]
    code_display_data = [
        {"code": "from IPython.display import HTML, display; display(HTML('<b>x</b>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('x^2'))", "mime": "text/latex"},
        {"code": "from IPython.display import JSON, display; display(JSON({'a': 1}))", "mime": "application/json"},
    ]

    code_history_pattern = "6?7*"
    # Not "range": IPython answers with session 0 for the current one, the suite wants its number.
    supported_history_operations = ("tail", "search")

    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    support_iopub_welcome = True


class TestKernelProtocol(PythonSamples, KernelTests):
    kernel_name = KERNEL


class TestIopubWelcome(PythonSamples, IopubWelcomeTests):
    kernel_name = KERNEL


# The suite's own base classes were imported by name; they are not tests of this file.
del KernelTests, IopubWelcomeTests
