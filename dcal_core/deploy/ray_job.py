"""Images encoded by the workers of a Ray cluster, for a job of many pairs.

The cluster is that of RAY_ADDRESS, else this machine alone. What is lost with a worker or a machine, Ray does again.
Every machine sees the model and the images under the same paths.
"""

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import ray
import ray.data

from dcal_core.data.decoding import Unreadable, read_file
from dcal_core.deploy.cache import Described, FeatureCache, restored, stored
from dcal_core.deploy.inputs import source_of
from dcal_core.deploy.pair_job import encode_here
from dcal_core.deploy.predictor import Predictor
from dcal_core.errors import ConfigError

IN_TASK = 256  # images: lost together with a worker


class Encoder:
    """Encodes images on a worker, which loads the model once, as it unpickles the predictor.

    identity: the predictor's where the job began. batch: how many are encoded at once. ConfigError where this machine
    would compute other descriptors.
    """

    def __init__(self, predictor: Predictor, identity: str, batch: int):
        if predictor.identity != identity:
            raise ConfigError(
                f"{predictor.source} is another model on {os.uname().nodename}, or runs by another engine there: give "
                "every machine the same folder and packages."
            )
        predictor.cache = FeatureCache(most=0)  # no image comes twice
        self.predictor = predictor
        self.batch = batch

    def __call__(self, images: pa.Table) -> pa.Table:
        """What the model knows of the images that can be read: place, key of the cache, and as `stored`."""
        read = {}
        for place, file in zip(images["place"].to_pylist(), images["file"].to_pylist(), strict=True):
            try:
                read[place] = read_file(os.fsdecode(file))
            except Unreadable:
                continue  # the job reads it itself, and says why it cannot
        files = list(read.values())
        keys = [self.predictor.key_of(source_of(file), self.batch) for file in files]
        described = self.predictor.describe(files, keys, self.batch)
        rows, about = zip(*map(stored, described), strict=True) if described else ((), ())
        columns = {"place": (list(read), pa.int64()), "key": (keys, pa.string())}
        columns |= {"row": (rows, pa.large_binary()), "about": (about, pa.large_string())}
        return pa.table({name: pa.array(values, kind) for name, (values, kind) in columns.items()})


def check_address() -> None:
    """ConfigError where no cluster answers at RAY_ADDRESS; Ray itself would try for a quarter of an hour."""
    address = os.environ.get("RAY_ADDRESS", "local")
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConfigError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}).") from None


def encode_on_ray(
    predictor: Predictor, root: Path, names: Sequence[str], batch: int
) -> Iterator[tuple[int, Described]]:
    """Images below a folder, each with its place among the names, as they come from the workers.

    Those that the cache keeps are not encoded again; those that no worker can read are encoded here.
    """
    left = {place: str(Path(root, name).absolute()) for place, name in enumerate(names)}
    if not predictor.cache.is_empty():
        for place, file in list(left.items()):
            if found := kept(predictor, file, batch):
                del left[place]
                yield place, found
    if left:
        for table in encoded(predictor, left, batch):
            places, keys, rows, about = (column.to_pylist() for column in table.columns)
            found = list(map(restored, rows, about))
            predictor.cache.put(dict(zip(keys, found, strict=True)))
            for place in places:
                del left[place]
            yield from zip(places, found, strict=True)
    places = list(left)
    unread = 0
    for place, one in encode_here(predictor, root, [names[place] for place in places], batch):
        unread += not one.error
        yield places[place], one
    if unread:
        print(f"{unread:,} images could be read here only: share their folder with all machines.", file=sys.stderr)


def kept(predictor: Predictor, file: str, batch: int) -> Described | None:
    """What the cache keeps of an image, None where it is new or cannot be read."""
    try:
        return predictor.cache.get(predictor.key_of(source_of(file), batch))
    except Unreadable:
        return None


def encoded(predictor: Predictor, files: dict[int, str], batch: int) -> Iterator[pa.Table]:
    """The tables that `Encoder` makes of files by their places; ConfigError where a worker cannot run the model."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # contacts no other host
    began = not ray.is_initialized()
    if began:
        address = os.environ.get("RAY_ADDRESS", "local")
        ray.init(address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    try:
        processors = int(ray.cluster_resources().get("CPU", 1))
        items = [{"place": place, "file": os.fsencode(file)} for place, file in files.items()]
        found = ray.data.from_items(items, override_num_blocks=-(-len(items) // IN_TASK)).map_batches(
            Encoder,
            fn_constructor_args=(predictor, predictor.identity, batch),
            batch_size=batch,
            batch_format="pyarrow",
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=processors, initial_size=processors),
        )
        yield from found.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.ActorDiedError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigError(f"--engine ray: a worker cannot load the model ({reason}).") from None
    finally:
        if began:
            ray.shutdown()
