"""Several processes: that two with half of each batch train as one does, and how they are started and ended."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import two_processes
from safetensors.torch import load_file

from dcal_core import distributed
from dcal_core.commands import train as recipes
from dcal_core.commands.train import train_in_processes
from dcal_core.config.dcal import DCALConfig
from dcal_core.config.recipes import load
from dcal_core.distributed import (
    LaunchError,
    broadcast,
    gather,
    launch,
    leave_outcome,
    main_first,
    main_only,
    rank,
    read_outcomes,
    world_size,
)
from dcal_core.runs import RunFolder
from dcal_core.training import loop, task
from dcal_core.training.checkpoints import Progress
from dcal_core.training.loop import MemoryShort

ROOT = Path(__file__).parents[1]
NEVER_S = 60  # what is waited for at most, and takes a second or two


# ---- training


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes have done: the folder, what each of them saw, and what they printed."""
    folder = tmp_path_factory.mktemp("together")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment[distributed.OUTCOMES] = str(tmp_path_factory.mktemp("outcomes"))
    with subprocess.Popen(
        [*torchrun, two_processes.__file__, str(folder)],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as group:
        try:
            printed, errors = group.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            group.terminate()  # and it the two, one of which waits for the other
            raise
    assert group.returncode == 0, errors[-3000:]
    seen = [torch.load(folder / f"rank{number}.pt", weights_only=True) for number in range(2)]
    outcomes = read_outcomes(Path(environment[distributed.OUTCOMES]))
    return SimpleNamespace(runs=folder / "runs", seen=seen, printed=printed, outcomes=outcomes)


@pytest.fixture
def on_a_cpu(monkeypatch):
    """As the two processes: no GPU, and one thread, whose sums come in the same order."""
    monkeypatch.setattr(task, "gpu_verdict", lambda: (False, "no GPU"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Those of the model, of the objective and of the moving average, if there is one."""
    files = [file for file in RunFolder(run).saved[0].glob("*.safetensors") if file.stem != "optimizer"]
    return {f"{file.stem}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


def moments(run: Path) -> dict[str, torch.Tensor]:
    """What AdamW has summed up of the gradients; unlike its steps this shows a gradient of the wrong size."""
    return load_file(RunFolder(run).saved[0] / "optimizer.safetensors")


def logged(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def distances(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> dict[str, float]:
    assert a.keys() == b.keys()
    return {name: (a[name].double() - b[name].double()).abs().max().item() for name in a}


def assert_alike(together, case: str, alone: Path, kept: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """That two processes have trained, logged and validated as one has; returns their weights."""
    trained = weights(together.runs / case)
    assert {name: apart for name, apart in distances(trained, weights(alone)).items() if apart > 1e-5} == {}
    one, both = moments(alone), moments(together.runs / case)
    assert one.keys() == both.keys()
    assert [name for name in one if (one[name] - both[name]).norm() > 1e-3 * one[name].norm()] == []
    for a, b in zip(logged(alone), logged(together.runs / case), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for seen in together.seen:
        assert max(distances(seen["kept"][case], kept).values()) < 1e-5
    return trained


@pytest.mark.parametrize("case", two_processes.CASES)
def test_two_processes_with_half_of_each_batch_train_as_one_with_all_of_it(together, on_a_cpu, tmp_path, case):
    assert case not in together.seen[0]["failed"], together.seen[0]["failed"][case]
    changes = two_processes.CASES[case]
    batches = two_processes.Joined(two_processes.CONFIG.replace(**changes))
    run, progress, kept = two_processes.run_case(tmp_path / "alone", batches, **changes)
    assert progress.finished and progress.batch == 5
    trained = assert_alike(together, case, run.folder.path, kept)
    assert any(name.endswith("running_var") for name in trained)  # the necks' statistics are of the whole batch too
    # The comparison says something: training has moved what is compared.
    new = {f"model.{name}": tensor for name, tensor in two_processes.model_of(run.config).state_dict().items()}
    moved = distances(new, {name: trained[name] for name in new})
    assert moved["model.vit.cls_token"] > 2e-4 and moved["model.necks.sa.running_mean"] > 1e-2


def test_two_processes_train_oaml_as_one_does(together, on_a_cpu, tmp_path):
    """Who is alike, the class memory, the matcher's batch norms and the shared class centres are those of all rows."""
    batches = two_processes.Joined(two_processes.OAML)
    run, progress, kept = two_processes.run_case(tmp_path / "alone", batches, config=two_processes.OAML)
    assert progress.finished and progress.batch == 6
    trained = assert_alike(together, "oaml", run.folder.path, kept)
    assert trained["objective.memory.seen"].sum() > 8 and trained["sampling.neighbours"].shape == (16, 7)
    moved = distances(two_processes.oaml_model().state_dict(), kept)
    assert moved["backbone.input_layer.0.weight"] > 1e-3 and moved["qaconv.logit_bn.running_var"] > 1e-2
    assert moved["occlusion_head.conv2.bias"] > 1e-3 and moved["occlusion_head.conv1.weight"] > 0


def test_branches_rest_in_some_steps_and_run_in_others():
    """Else the case `rarely` would try nothing."""
    changes = two_processes.CASES["rarely"]
    batches = two_processes.batches_of(two_processes.CONFIG.replace(**changes))
    assert len({"partner" in batches[step][0] for step in range(5)}) == 2


@pytest.mark.parametrize("case", two_processes.CASES)
def test_all_processes_keep_the_same_weights(together, case):
    kept = [seen["kept"][case] for seen in together.seen]
    assert kept[0].keys() == kept[1].keys() and all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    of_file = load_file(together.runs / case / "checkpoints" / "best" / "model.safetensors")
    assert all(torch.equal(kept[0][name], of_file[name]) for name in kept[0])
    averaged = RunFolder(together.runs / case).saved[0] / "average.safetensors"
    assert averaged.is_file() == (case == "rarely")
    assert not averaged.is_file() or all(torch.equal(kept[0][n], tensor) for n, tensor in load_file(averaged).items())


def test_gathering_sums_the_gradients_of_all_processes_losses(together):
    for number, seen in enumerate(together.seen):
        rows, gradient = seen["gathered"]
        assert rows.tolist() == [[0, 1, 2], [3, 4, 5], [10, 11, 12], [13, 14, 15]]
        assert gradient.tolist() == (2 * torch.arange(12.0).view(4, 3)[2 * number :][:2]).tolist()


def test_processes_share_out_the_class_centres_and_find_the_same_loss(together):
    alone = {people: two_processes.margin_softmax(people) for people in two_processes.PEOPLE}
    for seen in together.seen:
        torch.testing.assert_close(seen["softmax"], alone)
    first, second = (seen["sampled"] for seen in together.seen)
    assert torch.equal(first["loss"], second["loss"]) and first["gradients"].isfinite().all()


def test_each_process_leaves_its_own_outcome_after_the_group_has_parted(together):
    assert [outcome["failed"] for outcome in together.outcomes] == [False, False]


def test_an_odd_number_of_images_is_encoded_by_two_processes_as_by_one(together):
    alone = two_processes.encode()
    for seen in together.seen:
        assert seen["encoded"].keys() == alone.keys() == {"sa", "glca"}
        for name, part in alone.items():
            assert len(part) == two_processes.ENCODED
            torch.testing.assert_close(seen["encoded"][name], part)
            assert torch.equal(seen["encoded_into_a_file"][name], seen["encoded"][name])


def test_what_process_0_has_and_does(together):
    assert [seen["broadcast"] for seen in together.seen] == [0, 0]
    assert [seen["main_only"] for seen in together.seen] == ["done", None]
    assert [seen["turns"] for seen in together.seen] == [["first"], ["first"]]  # process 1 has waited for it


def test_only_process_0_writes_and_prints(together):
    assert together.seen[1]["written"] == [] and len(together.seen[0]["written"]) > 20
    assert "Printed by process 0 of 2." in together.printed and "Printed by process 1" not in together.printed
    for case in two_processes.CASES:
        files = [path.name for path in (together.runs / case).rglob("*") if path.is_file()]
        assert files.count("config.json") == files.count("metrics.jsonl") == files.count("progress.json") == 1
        batches = [(line["batch"], "loss" in line) for line in logged(together.runs / case)]
        assert batches == [(5, True), (5, False)]


def test_process_0_decides_when_time_is_up_and_going_on_leaves_no_trace(together):
    for seen in together.seen:  # the time of process 1 is up from the start, then that of process 0
        assert seen["batches"] == [(12, True), (10, False), (12, True)]
    stopped, unhurried = (together.runs / name for name in ("stopped", "unhurried"))
    for held in (weights, moments):
        assert max(distances(held(stopped), held(unhurried)).values()) == 0.0


def test_one_process_is_alone(tmp_path):
    rows = torch.ones(2, 3)
    assert (rank(), world_size()) == (0, 1) and gather(rows) is rows and broadcast(rows) is rows
    with main_first():
        assert main_only(lambda number: number + 1)(1) == 2
    assert not distributed.launched()
    distributed.join()
    distributed.leave()
    assert world_size() == 1


# ---- starting and ending them


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder, from which dcal_core can be imported by nobody who is not told where it is."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


STAND_IN = f"""
import json, os, signal, sys, time
from pathlib import Path

here = Path(sys.argv[1])
rank = os.environ["RANK"]
(here / rank).write_text(str(os.getpid()))


def end(**failure):
    outcome = {{"time": time.time(), "failed": bool(failure), "expected": True}} | failure
    (Path(os.environ["{distributed.OUTCOMES}"]) / f"{{rank}}.json").write_text(json.dumps(outcome))
    print(f"{distributed.ENDED}{{rank}}.\\n", end="", file=sys.stderr, flush=True)
    sys.exit(bool(failure))


"""


@pytest.fixture
def stand_in(elsewhere, monkeypatch):
    """Gives `launch` other code to run in place of dcal_core; that code finds its folder in `here`, and can `end` as
    dcal_core does, by a failure or without."""
    package = elsewhere / "home" / "dcal_core"
    package.mkdir(parents=True)
    monkeypatch.setattr(distributed, "__file__", str(package / "distributed.py"))

    def write(code: str) -> Path:
        (package / "__main__.py").write_text(STAND_IN + code)
        return elsewhere

    return write


def hear(monkeypatch, heard) -> None:
    """Let `launch` call a function with each line in place of printing it."""
    monkeypatch.setattr(distributed, "print", lambda line, **_: heard(line), raising=False)


def has_ended(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return not status.is_file() or "State:\tZ" in status.read_text()


def test_lines_are_passed_on_and_the_first_failure_ends_the_others_with_its_reason(stand_in, monkeypatch):
    here = stand_in("""
if rank == "0":
    print("Started", sys.argv[2], flush=True)
    while not (here / "heard").exists():
        time.sleep(0.05)
    print("\\rtraining:  50%|####", end="", flush=True)
    (here / "half").touch()
    time.sleep(60)
ends = time.monotonic() + 30
while not (here / "half").exists() and time.monotonic() < ends:
    time.sleep(0.05)
print("The last line\\n", end="", flush=True)
end(kind="MemoryShort", message="too small: give accumulation=4", values={"accumulation": 4})
""")
    lines = []

    def heard(line):
        lines.append(line)
        if line.startswith("Started"):
            (here / "heard").touch()  # so process 1 fails only if this line came before the end

    hear(monkeypatch, heard)
    began = time.monotonic()
    with pytest.raises(LaunchError) as failure:
        launch([str(here), "an argument"], 2)
    assert time.monotonic() - began < NEVER_S
    assert (here / "half").exists()
    assert str(failure.value) == "one of 2 processes failed: MemoryShort: too small: give accumulation=4"
    assert (failure.value.kind, failure.value.values) == ("MemoryShort", {"accumulation": 4})
    assert "Started an argument\n" in lines and "The last line\n" in "".join(lines)
    assert not [line for line in lines if distributed.ENDED in line or "torch" in line or "Traceback" in line]
    assert all(has_ended(int((here / number).read_text())) for number in "01")


def test_lines_of_a_process_are_passed_on_until_its_own_end(stand_in, capfd):
    """Though its outcome is already there when the other one ends."""
    here = stand_in("""
own = Path(os.environ["DCAL_OUTCOMES"]) / f"{rank}.json"
if rank == "1":
    own.write_text(json.dumps({"time": 0.0, "failed": False}))
    (here / "written").touch()
    ends = time.monotonic() + 30
    while not (here / "0 ends").exists() and time.monotonic() < ends:
        time.sleep(0.05)
    time.sleep(0.5)
    print("the last line of the second", flush=True)
else:
    while not (here / "written").exists():
        time.sleep(0.05)
    (here / "0 ends").touch()
end()
""")
    distributed.launch([str(here)], 2)
    assert "the last line of the second\n" in capfd.readouterr().out
    assert (here / "0 ends").exists()


def test_of_several_failures_the_first_is_told(stand_in, monkeypatch):
    """The second one may only follow from it."""
    here = stand_in("""
ends = time.monotonic() + 30
while rank == "0" and not (here / "failed").exists() and time.monotonic() < ends:
    time.sleep(0.05)
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which torchrun ends the others
if rank == "0":
    end(kind="RuntimeError", message="the connection was closed", values={})
outcome = dict(kind="DataError", message="no image is left.", values={})
try:
    end(**outcome)
finally:
    (here / "failed").touch()
""")
    hear(monkeypatch, lambda line: None)
    with pytest.raises(LaunchError) as failure:
        launch([str(here)], 2)
    assert str(failure.value) == "one of 2 processes failed: DataError: no image is left."
    assert (failure.value.kind, failure.value.values) == ("DataError", {})


def test_a_process_that_is_killed_leaves_no_reason_but_its_exit_status(stand_in, monkeypatch):
    here = stand_in("""
if rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGTERM, lambda *_: end())  # torchrun ends the others, who save and end well
time.sleep(60)
""")
    lines = []
    hear(monkeypatch, lines.append)
    with pytest.raises(LaunchError) as failure:
        launch([str(here)], 2)
    assert str(failure.value) == "one of 2 processes failed: see the lines above (exit status 1)"
    assert (failure.value.kind, failure.value.values) == ("", {})
    assert "SIGKILL" in "".join(lines)  # torchrun's account, which is all there is
    assert all(has_ended(int((here / number).read_text())) for number in "01")


def test_a_group_that_is_asked_to_end_saves_and_ends_well(stand_in, monkeypatch):
    """As when a batch system's time is up: torchrun then fails, and what it says of that is not passed on."""
    here = stand_in("""
signal.signal(signal.SIGTERM, lambda *_: (here / "saving").touch())
print("Started\\n", end="", flush=True)
while not (here / "saving").exists():
    time.sleep(0.05)
time.sleep(0.2)
print("Saved\\n", end="", flush=True)
end()
""")
    lines = []

    def heard(line):
        lines.append(line)
        if line == "Started\n" and lines.count(line) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    hear(monkeypatch, heard)
    before = signal.getsignal(signal.SIGTERM)
    launch([str(here)], 2)
    assert signal.getsignal(signal.SIGTERM) is before
    assert lines.count("Saved\n") == 2 and "Traceback" not in "".join(lines[lines.index("Saved\n") :])
    assert all(has_ended(int((here / number).read_text())) for number in "01")


def test_a_process_leaves_how_it_ended_with_all_that_its_error_tells(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "launched", lambda: True)
    monkeypatch.setenv(distributed.OUTCOMES, str(tmp_path))
    ends = [(1, MemoryShort(4)), (0, None), (2, ZeroDivisionError("division by zero"))]
    for number, error in ends:
        monkeypatch.setenv("RANK", str(number))  # as torchrun tells it, whether this one is in the group or not
        leave_outcome(error)
    assert capsys.readouterr().err.splitlines() == [f"{distributed.ENDED}{number}." for number, _ in ends]
    first, second, third = read_outcomes(tmp_path)  # in this order
    assert first.pop("time") <= second.pop("time") <= third.pop("time")
    sentence = str(ends[0][1])
    assert first == {
        "failed": True,
        "kind": "MemoryShort",
        "message": sentence,
        "values": {"accumulation": 4},
        "expected": True,
    }
    assert second == {"failed": False}
    assert third.pop("values") == {} and not third.pop("expected")
    assert third == {"failed": True, "kind": "ZeroDivisionError", "message": "division by zero"}


def test_a_process_that_nobody_launched_leaves_no_outcome(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(distributed.OUTCOMES, str(tmp_path))
    leave_outcome(MemoryShort(4))  # not by torchrun
    monkeypatch.delenv(distributed.OUTCOMES)
    monkeypatch.setattr(distributed, "launched", lambda: True)
    leave_outcome(MemoryShort(4))  # by torchrun, but not by `launch`
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().err == ""


def test_an_interrupt_ends_all_processes(stand_in, monkeypatch):
    # In one write, since two processes print at once.
    here = stand_in('print("Started\\n", end="", flush=True)\ntime.sleep(60)\n')
    lines = []

    def heard(line):
        lines.append(line)
        if lines.count("Started\n") == 2:
            raise KeyboardInterrupt

    hear(monkeypatch, heard)
    with pytest.raises(KeyboardInterrupt):
        launch([str(here)], 2)
    ends = time.monotonic() + 20
    while not all(ended := [has_ended(int((here / number).read_text())) for number in "01"]):
        assert time.monotonic() < ends, ended
        time.sleep(0.1)


def test_a_process_that_cannot_go_on_says_so_in_one_sentence(elsewhere, capfd):
    """The real dcal_core, which nobody has installed; neither process finds the data."""
    with pytest.raises(LaunchError) as failure:
        launch(["train", "-p", "data_root", "nowhere", "-p", "nproc", "2"], 2)
    sentence = "DataError: data_root=nowhere: no such folder: correct it, or leave it out to search the inputs."
    assert str(failure.value) == f"one of 2 processes failed: {sentence}"
    printed = "".join(capfd.readouterr())
    assert printed.count("Train a twin verifier") == 0  # it is refused before the title
    assert "Traceback" not in printed and distributed.ENDED not in printed
    assert [path.name for path in Path().rglob("*") if path.is_file()] == []  # no trace of a run


# ---- training in processes, anew where the memory of one ran out


class Launched:
    """Stands in for `launch`: keeps the configs that it is given, ends with the given errors, then trains to the end;
    `keeps` says whether a launch that fails has saved a checkpoint by then."""

    def __init__(self):
        self.configs, self.errors, self.keeps = [], [], False

    def __call__(self, command, processes):
        config = load(Path(command[2]).stem, Path(command[2]).parent, {})
        self.configs.append(config)
        if self.keeps or not self.errors:
            last = Path(config.run_dir) / "checkpoints" / "last" / "00000006"
            last.mkdir(parents=True, exist_ok=True)
            (last / "progress.json").write_text(json.dumps(Progress(batch=6, finished=True).model_dump()))
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def launched(monkeypatch):
    monkeypatch.setattr(recipes, "launch", stand_in := Launched())
    monkeypatch.setattr(recipes, "gpu_verdict", lambda: (False, "no GPU"))
    return stand_in


DATA = {"train": SimpleNamespace(index=SimpleNamespace(fingerprint=lambda: "the people and images"))}
TWO = DCALConfig(nproc=2, families_per_batch=8)


def memory_short(parts: int) -> LaunchError:
    """How `launch` ends where a process gives up for want of memory."""
    batches = SimpleNamespace(halve=lambda: None, parts=parts)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(MemoryShort) as short:
        patched.setattr(loop, "world_size", lambda: 2)
        loop.Trainer.use_less_memory(SimpleNamespace(batches=batches))
    told = ("MemoryShort", short.value.values, True)
    return LaunchError(f"one of 2 processes failed: MemoryShort: {short.value}", *told)


def test_all_begin_again_in_smaller_parts_as_often_as_the_memory_of_one_runs_out(launched, tmp_path, capsys):
    launched.errors += [memory_short(2), memory_short(4)]
    _, progress = train_in_processes(TWO, RunFolder(tmp_path / "demo"), DATA)
    assert [config.accumulation for config in launched.configs] == [1, 2, 4] and progress.finished
    assert {config.replace(accumulation=1) for config in launched.configs} == {launched.configs[0]}
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0].endswith("accumulation=2.") and said[1].endswith("accumulation=4.")


ENDS = [KeyboardInterrupt(), LaunchError("one of 2 failed: no weights", "ConfigError", expected=True)]
ENDS += [LaunchError("one of 2 processes failed: see the lines above")]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_other_ends_are_passed_on(launched, tmp_path, end):
    launched.errors.append(end)
    launched.keeps = end is ENDS[-1]  # one that was killed has saved something before
    with pytest.raises(type(end)) as raised:
        train_in_processes(TWO, RunFolder(tmp_path / "demo"), DATA)
    assert raised.value is end and len(launched.configs) == 1


def test_where_processes_cannot_begin_together_one_trains_alone(launched, tmp_path, monkeypatch, capsys):
    launched.errors.append(LaunchError("one of 2 processes failed: DistBackendError: NCCL", "DistBackendError"))
    alone = []
    monkeypatch.setattr(recipes, "train_run", lambda config, folder, data: alone.append(config) or ("run", "progress"))
    folder = RunFolder(tmp_path / "demo")
    folder.lock()
    assert train_in_processes(TWO, folder, DATA) == ("run", "progress")
    assert alone == [TWO.replace(nproc=1, run_dir=str(folder))] and len(launched.configs) == 1
    said = capsys.readouterr().out
    assert "DistBackendError: NCCL" in said and "2 processes could not begin together, so one trains alone" in said


@pytest.mark.parametrize("keeps", [False, True])
def test_a_fresh_start_takes_no_attached_run_and_goes_on_only_from_what_it_has_kept(launched, tmp_path, keeps):
    launched.errors, launched.keeps = [memory_short(2)], keeps
    train_in_processes(TWO.replace(resume=False), RunFolder(tmp_path / "demo"), DATA)
    assert [config.resume for config in launched.configs] == [False, keeps]
