"""`--engine ray`: the same file as by one process, whatever the workers cannot read and whichever machine dies."""

import io
import os
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny import VALUES, model_of
from tiny_predictor import RULE, packed, predictor, written

from dcal_core.__main__ import main
from dcal_core.commands import verify as command
from dcal_core.config.dcal import DCALConfig
from dcal_core.deploy.cache import FeatureCache
from dcal_core.deploy.pair_job import compare_all
from dcal_core.deploy.pair_sources import PairSource
from dcal_core.deploy.predictor import Predictor
from dcal_core.errors import ConfigError

ROOT = Path(__file__).parents[2]
NO_RAY = 'ray, which is not installed: pip install -r requirements-ray.txt, or pip install -e ".[ray]" in a checkout.'


@pytest.fixture
def listed(tmp_path):
    """All 820 pairs of 41 images: one broken, one missing, one with a name that is not UTF-8."""
    files = written(tmp_path, 40)
    files[7].write_bytes(b"broken")
    names = [file.name for file in files] + ["missing.png"]
    names[8] = os.fsdecode(b"\xff.png")
    files[8].rename(tmp_path / names[8])
    return PairSource(names, tmp_path, 820, "all pairs", first=41)


@pytest.fixture
def ray_job():
    """The module, without a cluster."""
    pytest.importorskip("ray.data", reason=NO_RAY)
    from dcal_core.deploy import ray_job

    return ray_job


@pytest.fixture
def in_place(ray_job, monkeypatch):
    """Workers that run in this process: the last images first, and at most so many of them seen by a worker."""
    import pyarrow

    def encoded(judge, files, batch):
        worker = ray_job.Encoder(predictor(), judge.identity, batch)
        seen = list(files.items())[: encoded.most]
        for start in reversed(range(0, len(seen), 5)):
            places, paths = zip(*seen[start : start + 5], strict=True)
            assert all(os.path.isabs(path) for path in paths)
            encoded.given += len(paths)
            yield worker(pyarrow.table({"place": places, "file": [os.fsencode(path) for path in paths]}))
        encoded.by_workers = worker.predictor.engine.encoded

    encoded.most = None
    encoded.given = 0
    monkeypatch.setattr(ray_job, "encoded", encoded)
    return encoded


@pytest.fixture
def nodes(ray_job, monkeypatch):
    """A cluster of two nodes of one processor each on this machine, and the node that holds no job."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for turn in range(1, 5):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=1, include_dashboard=False)
            second = cluster.add_node(num_cpus=1)
            break
        except Exception:  # a node has 30 s to start, which are few on a busy machine
            cluster.shutdown()
            if turn == 4:
                raise
    ray.init(cluster.address, log_to_driver=False)
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


def text_of(source, judge, *encode) -> str:
    out = io.StringIO(newline="")
    compare_all(judge, source, out, 0, source.count, *encode)
    return out.getvalue()


def test_workers_give_what_one_process_gives(listed, ray_job, in_place, capsys):
    judge = predictor()
    assert text_of(listed, judge, ray_job.encode_on_ray) == text_of(listed, predictor())
    assert in_place.given == 41 and in_place.by_workers and not judge.engine.encoded
    assert "share their folder" not in capsys.readouterr().err


def test_what_no_worker_can_read_is_read_here(listed, ray_job, in_place, capsys):
    in_place.most = 0
    judge = predictor()
    assert text_of(listed, judge, ray_job.encode_on_ray) == text_of(listed, predictor())
    assert judge.engine.encoded >= 39 and "39 images could be read here only" in capsys.readouterr().err


def test_a_job_goes_on_with_what_its_cache_keeps(listed, ray_job, in_place, tmp_path):
    first = predictor(cache=FeatureCache(file=tmp_path / "kept"))
    for n, _ in enumerate(ray_job.encode_on_ray(first, listed.root, listed.names, 32)):
        if n == 12:
            break
    first.cache.close()
    given = in_place.given
    again = predictor(cache=FeatureCache(file=tmp_path / "kept"))
    in_place.given = 0
    assert text_of(listed, again, ray_job.encode_on_ray) == text_of(listed, predictor())
    assert in_place.given == 41 - given + 1  # the missing one was among the first


def test_a_worker_with_another_model_is_refused(ray_job):
    with pytest.raises(ConfigError, match="another model"):
        ray_job.Encoder(predictor(provenance={"weights": "1" * 64}), predictor().identity, 4)


def test_ray_is_asked_for_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "dcal_core.deploy.ray_job", raising=False)
    nowhere = ["--pairs", str(tmp_path / "missing.csv"), "--model", str(tmp_path / "nowhere")]
    assert main(["verify", *nowhere, "--engine", "ray"]) == command.FAILED
    assert f"--engine ray needs {NO_RAY}" in capsys.readouterr().err
    assert main(["verify", "a.png", "b.png", "--engine", "ray"]) == command.FAILED
    assert "is for --pairs and --folder" in capsys.readouterr().err
    assert main(["verify", *nowhere, "--engine", "rat"]) == command.FAILED


def test_a_cluster_that_is_not_there_is_refused(ray_job, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(["verify", "--pairs", "missing.csv", "--engine", "ray"]) == command.FAILED
    assert "RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers" in capsys.readouterr().err


@pytest.mark.faults
def test_a_machine_that_dies_in_the_middle_changes_no_byte(ray_job, nodes, tmp_path, monkeypatch, capsys):
    import ray

    cluster, second = nodes
    raylet = psutil.Process(second.all_processes["raylet"][0].process.pid)
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    packed(Path("model"), model_of(DCALConfig(**VALUES)), decision=RULE)
    files = written(tmp_path, 1500)
    files[7].write_bytes(b"broken")
    Path("pairs.csv").write_text("".join(f"{a.name},{b.name}\n" for a, b in zip(files, files[1:], strict=False)))
    Path("some").mkdir()
    written(Path("some"), 9)
    asked = ["verify", "--model", "model", "--aligned", "--output"]
    pairs, folder = ["--pairs", "pairs.csv"], ["--folder", "some", "--gallery", "some"]
    assert main([*asked, "pairs_one.csv", *pairs]) == main([*asked, "folder_one.csv", *folder]) == 0
    killed = []

    class Slow(ray_job.Encoder):
        def __call__(self, images):
            time.sleep(0.4)
            return super().__call__(images)

    def disturbed(*given):
        for n, found in enumerate(ray_job.encode_on_ray(*given)):
            yield found
            at_work = any("Slow" in " ".join(one.cmdline()) for one in raylet.children()) if not killed else False
            if at_work and n > 200:
                cluster.remove_node(second, allow_graceful=False)
                killed.append(n)

    monkeypatch.setattr(ray_job, "Encoder", Slow)
    monkeypatch.setattr(ray_job, "IN_TASK", 64)
    monkeypatch.setattr(command, "encode_of", lambda _: disturbed)
    assert main([*asked, "pairs_two.csv", *pairs, "--engine", "ray"]) == 0
    assert killed and killed[0] < 1000 and ray.cluster_resources()["CPU"] == 1
    assert main([*asked, "folder_two.csv", *folder, "--engine", "ray"]) == 0  # by the one that is left
    for name in ("pairs", "folder"):
        assert Path(f"{name}_two.csv").read_bytes() == Path(f"{name}_one.csv").read_bytes()
    assert "could be read here only" not in capsys.readouterr().err
    judge = Predictor.load("model", find_faces=False)
    judge.source = Path("elsewhere")
    with pytest.raises(ConfigError, match="a worker cannot load the model .*elsewhere"):
        list(ray_job.encoded(judge, {0: str(files[0])}, 4))
