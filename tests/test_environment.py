"""The machine: simulated Kaggle sessions, GPUs that run and GPUs that do not, secrets, and the time that is left."""

import platform
import re
import runpy
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from jupyter_client.manager import run_kernel

from dcal_core import environment
from dcal_core.environment import (
    TimeBudget,
    banner,
    fit_device,
    fit_precision,
    gpu_verdict,
    input_roots,
    is_interactive,
    on_kaggle,
    output_root,
    reachable,
    scratch_root,
    secret,
)

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def kaggle(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that a GPU is there: call it with the capability and the error that its first kernel raises."""

    def pretend(name: str, capability: tuple[int, int], error: Exception | None = None) -> None:
        def ones(*size, device):
            assert device == "cuda"
            if error:
                raise error
            return torch.zeros(*size) + 1

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=15 * 2**30))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
        monkeypatch.setattr(torch, "ones", ones)

    return pretend


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# ---- places


def test_kaggle_is_told_by_its_variable_whatever_its_value(monkeypatch):
    assert not on_kaggle()
    for value in ("Interactive", "Batch", ""):
        monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", value)
        assert on_kaggle()


def test_inputs_are_the_folder_given_else_kaggles_else_data(tmp_path):
    assert input_roots() == []
    (tmp_path / "data").mkdir()
    assert input_roots() == [Path("data")]
    (tmp_path / "input").mkdir()
    assert input_roots() == [tmp_path / "input", Path("data")]
    assert input_roots("faces") == [Path("faces")]


def test_outputs_lie_below_the_current_folder(tmp_path):
    assert output_root() == tmp_path / "runs"
    assert scratch_root().is_relative_to(output_root())


def test_on_kaggle_outputs_are_kept_and_scratch_is_not(kaggle):
    assert output_root() == Path("/kaggle/working")
    assert scratch_root().is_absolute() and not scratch_root().is_relative_to("/kaggle/working")


# ---- GPU


def test_no_gpu(no_gpu):
    fit, line = gpu_verdict()
    assert not fit and line == "no GPU"
    assert fit_precision("auto") == "fp32"
    assert fit_device() == "cpu"


def test_no_gpu_on_kaggle_says_what_to_choose(no_gpu, kaggle):
    assert "GPU T4 x2" in gpu_verdict()[1]


@pytest.mark.parametrize(
    ("name", "capability", "precision"),
    [("Tesla T4", (7, 5), "fp16"), ("A100", (8, 0), "bf16"), ("H100", (9, 0), "bf16"), ("B200", (10, 0), "bf16")],
)
def test_a_gpu_that_runs_kernels(gpu, name, capability, precision):
    gpu(name, capability)
    fit, line = gpu_verdict()
    assert fit and name in line and "15 GiB" in line and "2 x" in line and f"sm_{capability[0]}{capability[1]}" in line
    assert fit_precision("auto") == precision
    assert fit_device() == "cuda"


def test_a_retired_gpu_whose_first_kernel_fails_is_named_with_a_cure(gpu):
    gpu("Tesla P100", (6, 0), RuntimeError("CUDA error: no kernel image is available\nFor debugging consider"))
    fit, line = gpu_verdict()
    assert fit is False
    assert "Tesla P100" in line and "sm_60" in line and "sm_75, sm_80" in line and "no kernel image" in line
    assert "GPU T4 x2" in line and "cu126" in line and "\n" not in line
    assert fit_precision("auto") == "fp32"
    assert fit_device() == "cpu"


def test_a_precision_that_is_asked_for_is_taken(gpu, monkeypatch):
    gpu("Tesla T4", (7, 5))
    assert [fit_precision(wanted) for wanted in ("fp32", "fp16", "bf16")] == ["fp32", "fp16", "bf16"]


# ---- banner


def test_the_banner_says_what_this_is_and_what_it_runs_on(no_gpu):
    lines = banner("Train").splitlines()
    assert lines[0] == "Train" and lines[-1] == "no GPU"
    assert f"Python {platform.python_version()}" in lines[1] and f"torch {torch.__version__}" in lines[1]


def test_the_banner_on_kaggle_speaks_of_its_image(no_gpu, kaggle):
    assert "Kaggle image" in banner("Train")


# ---- secrets


def client(monkeypatch, get_secret) -> None:
    """Install a stand-in for Kaggle's client of secrets."""
    module = SimpleNamespace(UserSecretsClient=lambda: SimpleNamespace(get_secret=get_secret))
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)


def test_a_secret_in_the_environment_wins(monkeypatch, kaggle, capsys):
    monkeypatch.setenv("SOME_KEY", "from-environment")
    client(monkeypatch, lambda name: "from-kaggle")
    assert secret("SOME_KEY") == "from-environment"
    assert capsys.readouterr() == ("", "")


def test_a_secret_of_kaggles_is_had_by_its_name_and_never_printed(monkeypatch, kaggle, capsys):
    client(monkeypatch, lambda name: f"hunter2 of {name}")
    assert secret("SOME_KEY") == "hunter2 of SOME_KEY"
    assert capsys.readouterr() == ("", "")


def test_elsewhere_nobody_is_asked(monkeypatch, capsys):
    client(monkeypatch, lambda name: pytest.fail("asked"))
    assert secret("SOME_KEY") is None
    assert capsys.readouterr() == ("", "")


def test_without_the_client_one_line_says_what_to_do(monkeypatch, kaggle, capsys):
    monkeypatch.setitem(sys.modules, "kaggle_secrets", None)  # importing it raises ModuleNotFoundError
    assert secret("SOME_KEY") is None
    line = capsys.readouterr().out
    assert re.fullmatch(r"[^\n]*SOME_KEY[^\n]*ModuleNotFoundError[^\n]*Add-ons > Secrets\.\n", line)


@pytest.mark.parametrize("error", [ConnectionError, ValueError, KeyError, OSError])
def test_a_client_that_fails_costs_one_line_without_the_errors_text(monkeypatch, kaggle, capsys, error):
    def get_secret(name):
        raise error("token hunter2\nrejected")

    client(monkeypatch, get_secret)
    assert secret("SOME_KEY") is None
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and error.__name__ in out and "hunter2" not in out


def test_a_client_that_hangs_is_left_after_the_limit_and_does_not_keep_the_process(monkeypatch, kaggle, capsys):
    answer, before = threading.Event(), set(threading.enumerate())
    client(monkeypatch, lambda name: answer.wait(30) and "too late")
    monkeypatch.setattr(environment, "SECRET_WAIT_S", 0.05)
    began = time.monotonic()
    try:
        assert secret("SOME_KEY") is None
        assert time.monotonic() - began < 5
        assert capsys.readouterr().out.count("\n") == 1
        # At its end Python waits for every thread that is not a daemon.
        assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    finally:
        answer.set()


# ---- network, time


def test_a_server_that_listens_is_reachable_and_one_that_is_gone_is_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable("127.0.0.1", port, wait_s=2)
    assert not reachable("127.0.0.1", port, wait_s=2)
    assert not reachable("no-such-host.invalid", 80, wait_s=2)


def test_the_budget_counts_from_the_start_of_the_session():
    assert not TimeBudget(1.0, started=time.monotonic() - 3500).used_up()
    assert TimeBudget(1.0, started=time.monotonic() - 3700).used_up()
    assert TimeBudget(0.0).used_up()


def test_a_process_that_a_session_starts_counts_from_its_beginning(monkeypatch):
    monkeypatch.setenv("DCAL_STARTED", "12.5")  # set by whoever starts processes
    assert runpy.run_path(environment.__file__)["STARTED"] == 12.5
    monkeypatch.delenv("DCAL_STARTED")
    assert time.monotonic() - 5 < runpy.run_path(environment.__file__)["STARTED"] <= time.monotonic()


def test_the_budget_keeps_half_as_much_again_as_saving_took():
    budget = TimeBudget(1.0, started=time.monotonic() - 3500)  # 100 s are left
    budget.need(60)
    assert not budget.used_up()
    budget.need(70)
    assert budget.used_up()
    budget.need(1)  # a quick one does not shrink the reserve
    assert budget.used_up()


@pytest.mark.parametrize("asking", [True, False])
def test_a_kernel_knows_whether_its_front_end_could_ask(asking):
    with run_kernel() as client:
        said = []
        code = "print(get_ipython().kernel._allow_stdin)"
        client.execute_interactive(code, allow_stdin=asking, output_hook=said.append, timeout=60)
    assert "".join(message["content"].get("text", "") for message in said) == f"{asking}\n"


def test_outside_a_notebook_nobody_is_there(monkeypatch):
    assert not is_interactive()

    asking = SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=True))
    monkeypatch.setattr("IPython.get_ipython", lambda: asking)
    assert is_interactive()
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert not is_interactive()
