import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcal_core import storage
from dcal_core.data.drawn import synthetic
from dcal_core.data.drawn.drawing import difference_mask, draw
from dcal_core.data.drawn.genomes import TWIN_SHAPE, Nuisance, family, nuisance
from dcal_core.data.drawn.synthetic import generate, mask_file
from dcal_core.storage import StorageError

FACES = Path(__file__).parents[1] / "fixtures" / "drawn_faces.png"
SMALL = dict(split="train", families=2, images_per_person=2, size=32, difficulty=0.5, seed=3, workers=1)


def pixels(root: Path) -> dict[str, np.ndarray]:
    """Every drawn file under `root`, by its path."""
    return {str(p.relative_to(root)): np.array(Image.open(p)) for p in sorted(root.rglob("*.png"))}


def distance(a: np.ndarray, b: np.ndarray, where=slice(None)) -> float:
    """Mean absolute difference of two images, in grey levels."""
    return float(np.abs(a.astype(float) - b)[where].mean())


def person_image(genome, size=64, pose=None):
    return draw(genome, pose or Nuisance(), size)


@pytest.fixture
def poses():
    """Poses as drawn, without blur, which spreads a mark beyond its mask."""
    return [replace(nuisance(0, "train", k, 0, i), blur=0.0) for k in range(3) for i in range(4)]


def test_pixels_do_not_depend_on_workers_or_on_how_many_families(tmp_path):
    shared = SMALL | dict(images_per_person=1)
    generate(tmp_path / "one", **shared | dict(families=5))
    generate(tmp_path / "two", **shared | dict(families=6, workers=2))
    one, two = pixels(tmp_path / "one"), pixels(tmp_path / "two")
    assert len(one) == 5 * 2 * 2 and len(two) == 6 * 2 * 2
    assert all(np.array_equal(image, two[name]) for name, image in one.items())


def test_the_faces_of_the_published_scores_are_drawn_as_they_were():
    """Another last digit may round a pixel otherwise; a change of the drawing moves some by dozens of grey levels."""
    published = np.array(Image.open(FACES))
    rows = [
        [draw(g, nuisance(0, "test", k, s, 2), 64) for s, g in enumerate(family(0, "test", k, 0.5))] for k in range(3)
    ]
    drawn = np.vstack([np.hstack(row) for row in rows])
    assert np.abs(drawn.astype(int) - published).max() <= 1


def test_another_seed_is_other_people():
    assert family(0, "train", 0, 0.5) == family(0, "train", 0, 0.5)
    assert family(0, "train", 0, 0.5) != family(1, "train", 0, 0.5)
    assert family(0, "train", 0, 0.5) != family(0, "test", 0, 0.5)
    assert nuisance(0, "train", 0, 0, 0) != nuisance(0, "train", 0, 1, 0)


def test_files_follow_the_format_of_nd_twins(tmp_path):
    for split in ("train", "test"):
        generate(tmp_path, **SMALL | dict(split=split))
    people = {}
    for split in ("train", "test"):
        images = json.loads((tmp_path / f"{split}_dataset_infor.json").read_text())
        pairs = json.loads((tmp_path / f"{split}_twin_pairs.json").read_text())
        assert sorted(person for pair in pairs for person in pair) == sorted(images)
        for person, paths in images.items():
            assert len(person) == 5 and len(paths) == 2
            for path in paths:
                assert path.startswith(f"{split}/{person}/{person}d")
                assert np.array(Image.open(tmp_path / path)).shape == (32, 32, 3)
                mask = np.array(Image.open(mask_file(tmp_path, path)))
                assert mask.shape == (32, 32) and set(np.unique(mask)) == {0, 128, 255}
        people[split] = set(images)
    assert len(people["train"]) == len(people["test"]) == 4
    assert people["train"].isdisjoint(people["test"])


def test_siblings_look_alike_and_families_do_not():
    families = [family(0, "train", k, 0.5) for k in range(12)]
    first = [person_image(a) for a, _ in families]
    second = [person_image(b) for _, b in families]
    siblings, outside = [], []
    for k, (a, b) in enumerate(families):
        plain = difference_mask(a, [b], Nuisance(), 64) == 0
        siblings.append(distance(first[k], second[k]))
        outside.append(distance(first[k], second[k], plain))
    strangers = [distance(first[j], second[k]) for j in range(12) for k in range(12) if j != k]
    assert max(outside) < 5
    assert np.mean(strangers) > 5 * np.mean(siblings)
    assert np.quantile(strangers, 0.02) > max(siblings)


def test_mask_holds_every_pixel_that_a_mark_changes(poses):
    for k in range(3):
        for genome, co_twin in (family(0, "train", k, 0.5), family(0, "train", k, 0.5)[::-1]):
            for pose in [Nuisance(), *poses[4 * k : 4 * k + 4]]:
                mask = difference_mask(genome, [co_twin], pose, 64)
                unmarked = draw(replace(genome, marks=()), pose, 64)
                changed = (draw(genome, pose, 64) != unmarked).any(-1)
                assert changed.any() and not (changed & (mask != 255)).any()
                assert changed.sum() > 0.8 * (mask == 255).sum()  # no mark lies under hair, eyes or mouth
                co_mask = difference_mask(co_twin, [genome], pose, 64)
                assert np.array_equal(mask > 0, co_mask > 0) and (co_mask[mask == 128] == 255).all()


def test_no_two_marks_of_a_family_touch():
    for k in range(40):
        for difficulty in (0.0, 0.5, 1.0):
            marks = [mark for sibling in family(0, "train", k, difficulty) for mark in sibling.marks]
            for i, a in enumerate(marks):
                for b in marks[:i]:
                    assert np.hypot(a.u - b.u, a.v - b.v) > a.radius + b.radius


def test_difficulty_shrinks_marks_and_shape_differences():
    def families(difficulty):
        return [family(0, "train", k, difficulty) for k in range(40)]

    radius, spread = [], []
    for difficulty in (0.0, 0.5, 1.0):
        siblings = families(difficulty)
        assert {len(g.marks) for pair in siblings for g in pair} == {2, 3, 4}
        radius.append([m.radius / 2 for pair in siblings for g in pair for m in g.marks])  # of the image width
        spread.append([abs(getattr(a, name) / getattr(b, name) - 1) for a, b in siblings for name in TWIN_SHAPE])
    assert np.mean(radius[0]) > np.mean(radius[1]) > 2 * np.mean(radius[2])
    assert np.mean(spread[0]) > np.mean(spread[1]) > 2 * np.mean(spread[2])
    assert min(radius[1]) > 0.027 and max(radius[1]) < 0.0501  # 3-5 %, a little less on full skin
    assert min(radius[2]) > 0.009 and max(radius[2]) < 0.0168
    assert max(spread[1]) < 0.163 and max(spread[2]) < 0.041  # relative to the smaller of the two


def test_siblings_share_all_but_marks_and_seven_shapes():
    a, b = family(0, "test", 0, 0.5)
    differing = {name for name in vars(a) if getattr(a, name) != getattr(b, name)}
    assert differing == {*TWIN_SHAPE, "marks"}
    assert len(TWIN_SHAPE) == 7


def test_a_face_is_the_same_at_every_size(poses):
    genome, co_twin = family(0, "train", 1, 0.5)
    for pose in (Nuisance(), replace(poses[0], noise=0.0)):
        small, large = draw(genome, pose, 56), draw(genome, pose, 224)
        shrunk = large.reshape(56, 4, 56, 4, 3).mean((1, 3))
        assert distance(small, shrunk) < 2.5
        small, large = (difference_mask(genome, [co_twin], pose, size) == 255 for size in (56, 224))
        shrunk = large.reshape(56, 4, 56, 4).mean((1, 3))
        assert small[shrunk > 0.5].all() and (small & (shrunk == 0)).sum() < 0.4 * small.sum()


def test_images_of_a_person_differ_and_are_well_exposed():
    genome, _ = family(0, "train", 2, 0.5)
    images = [draw(genome, nuisance(0, "train", 2, 0, i), 64) for i in range(6)]
    assert all(image.shape == (64, 64, 3) and image.dtype == np.uint8 for image in images)
    assert all(distance(images[0], image) > 5 for image in images[1:])
    assert all(40 < image.mean() < 215 and image.std() > 20 for image in images)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"difficulty": 1.2}, "difficulty=1.2"),
        ({"difficulty": -0.1}, "difficulty=-0.1"),
        ({"split": "validation"}, "split='validation'"),
        ({"families": 0}, "families=0"),
        ({"families": 30_000}, "families=30000"),
        ({"images_per_person": 0}, "images_per_person=0"),
        ({"size": 4}, "size=4"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_values_out_of_range_are_named_and_nothing_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        generate(tmp_path, **SMALL | change)
    assert not list(tmp_path.iterdir())


def test_a_split_that_is_there_is_not_drawn_again(tmp_path, monkeypatch):
    generate(tmp_path, **SMALL)
    monkeypatch.setattr(synthetic, "draw", None)  # to draw would fail
    generate(tmp_path, **SMALL | dict(workers=2))
    with pytest.raises(TypeError):
        generate(tmp_path, **SMALL | dict(seed=4))


def test_other_parameters_replace_a_split_and_leave_the_other(tmp_path):
    generate(tmp_path, **SMALL)
    generate(tmp_path, **SMALL | dict(split="test"))
    before = pixels(tmp_path)
    generate(tmp_path, **SMALL | dict(families=1, difficulty=1.0))
    after = pixels(tmp_path)
    assert sum(name.startswith("train/") for name in after) == 4
    assert sum(name.startswith("masks/train/") for name in after) == 4
    assert all(np.array_equal(after[name], before[name]) for name in before if "test/" in name)
    assert len(json.loads((tmp_path / "train_twin_pairs.json").read_text())) == 1


def test_an_interrupted_drawing_is_done_again(tmp_path):
    generate(tmp_path, **SMALL)
    before = pixels(tmp_path)
    (tmp_path / "train_synthetic.json").unlink()
    damaged = next((tmp_path / "train").rglob("*.png"))
    damaged.write_bytes(b"half a file")
    (damaged.parent / "left_over.png").write_bytes(b"")
    generate(tmp_path, **SMALL)
    after = pixels(tmp_path)
    assert before.keys() == after.keys()
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_photographs_are_never_removed(tmp_path):
    photograph = tmp_path / "train" / "90004" / "90004d13.jpg"
    photograph.parent.mkdir(parents=True)
    photograph.write_bytes(b"a photograph")
    with pytest.raises(FileExistsError, match="90004"):
        generate(tmp_path, **SMALL)
    assert photograph.read_bytes() == b"a photograph"


def test_a_real_index_is_never_overwritten(tmp_path):
    index = tmp_path / "train_dataset_infor.json"
    index.write_text(json.dumps({"90004": ["elsewhere/90004d13.jpg"]}))
    with pytest.raises(FileExistsError, match="90004"):
        generate(tmp_path, **SMALL)
    assert "90004" in index.read_text()


def test_no_room_for_a_drawing_is_refused_before_it_and_the_room_asked_for_is_enough(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(synthetic, "check_room", lambda root, needed, *rest: asked.append(needed))
    given = dict(split="test", families=3, images_per_person=2, difficulty=0.5, seed=0, workers=1)
    for size in (32, 64):
        generate(tmp_path / str(size), size=size, **given)
        taken = sum(file.stat().st_blocks * 512 for file in (tmp_path / str(size)).rglob("*.png"))
        assert taken <= asked.pop() < 6 * taken
    monkeypatch.undo()
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(StorageError, match="0.00 GB free, and 12 drawn images of 32 px with their masks take up to"):
        generate(tmp_path / "full", size=32, **given)
    assert not (tmp_path / "full").exists()
    generate(tmp_path / "32", size=32, **given)  # what is drawn already needs no room
