"""Training is right on a device that is not the host: ``on_device.py``, on a stand-in for a GPU."""

import subprocess
import sys

from conftest import PROJECT


def test_training_on_a_device_keeps_every_promise_of_on_device():
    """In a process of its own: a backend of PyTorch's, once registered, stays, and ``torch.manual_seed``, the
    default accelerator and the optimizers' lists of devices would be other ones for the tests that follow.
    """
    unneeded = [f"-pno:{plugin}" for plugin in ("cacheprovider", "xdist", "nbval", "hypothesispytest")]
    options = ["-q", "-oaddopts=", "--no-header", *unneeded]
    command = [sys.executable, "-m", "pytest", *options, str(PROJECT / "tests" / "on_device.py")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
