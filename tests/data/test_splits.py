"""The data of a run: drawn twins or attached ones, cut by family, decoded, and never taken for what they are not."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from dcal_core.commands.train import open_training_data
from dcal_core.config.dcal import DCALConfig
from dcal_core.data import splits
from dcal_core.data.decoding import decode
from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.enough import Needs, too_little
from dcal_core.data.exclusions import FILE, write_exclusions
from dcal_core.data.landmarks import DRAWN
from dcal_core.data.locate import INDEX_FILES
from dcal_core.data.splits import open_data, open_root
from dcal_core.data.twins import DataError

FAMILIES, IMAGES, TEST_FAMILIES = 8, 3, 2
TINY = dict(image_size=32, synthetic_families=FAMILIES, synthetic_images=IMAGES, validation_share=0.4)
TINY |= dict(synthetic_test_families=TEST_FAMILIES)
CONFIG = DCALConfig(**TINY)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A scratch folder in which the twins of CONFIG are drawn once."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(autouse=True)
def drawn_here(elsewhere, monkeypatch, scratch):
    """Twins are drawn into the shared scratch folder, without worker processes."""
    monkeypatch.setattr(splits, "scratch_root", lambda: scratch)
    monkeypatch.setattr(splits, "generate", partial(generate, workers=1))


@pytest.fixture
def drawn(scratch):
    """The folder of the drawn twins."""
    return open_data(CONFIG).root


@pytest.fixture
def attached(drawn, tmp_path):
    """The same images and index files as someone would attach real ones: without masks and manifests."""
    folder = tmp_path / "data" / "owner" / "twin-faces"
    for name in ("train", "test"):
        shutil.copytree(drawn / name, folder / name)
    for name in INDEX_FILES:
        shutil.copy(drawn / name, folder / name)
    return folder


def assert_consistent(data) -> None:
    """Every split's images are those of its index, in its order."""
    for name, split in data.splits.items():
        assert split.index.name == name
        assert len(split.index.paths) == len(split.index.person_of) == len(split.images.images)
        for number, path in enumerate(split.index.paths):
            assert path.parent.name == split.index.people[split.index.person_of[number]]
            decoded = decode(path.read_bytes(), CONFIG.image_size)
            assert np.array_equal(split.images.batch([number])[0].numpy(), decoded)


def test_without_data_twins_are_drawn_and_called_synthetic(capsys, scratch):
    data = open_data(CONFIG)
    assert data.label == "SYNTHETIC" and data.synthetic
    assert data.root.is_relative_to(scratch)
    first = capsys.readouterr().out.splitlines()[0]
    assert "SYNTHETIC" in first and all(name in first for name in INDEX_FILES) and "data_root" in first


def test_splits_hold_all_families_and_their_images_in_order(capsys):
    data = open_data(CONFIG)
    assert {name: len(split.index.families) for name, split in data.splits.items()} == {
        "train": 5,
        "validation": 3,
        "test": TEST_FAMILIES,
    }
    assert len(data["train"].index.paths) == 5 * 2 * IMAGES
    assert_consistent(data)


def test_no_family_person_or_image_stands_in_two_splits():
    indexes = [split.index for split in open_data(CONFIG).splits.values()]
    for part in ("families", "people", "paths"):
        everything = [item for index in indexes for item in getattr(index, part)]
        assert len(everything) == len(set(everything))


def test_the_seed_chooses_the_validation_families():
    held_out = [
        open_data(DCALConfig(**TINY, seed=seed), ["validation"])["validation"].index.people for seed in (0, 0, 1, 2)
    ]
    assert held_out[0] == held_out[1] and len(set(held_out)) > 1


def test_only_the_splits_asked_for_are_opened(capsys):
    assert set(open_data(CONFIG, ("validation",)).splits) == {"validation"}
    assert "train:" not in capsys.readouterr().out.replace("twin_pairs", "")


def test_occluders_are_drawn_over_what_is_validated_and_tested_on_and_over_nothing_else():
    clear, occluded = (open_data(config).splits for config in (CONFIG, CONFIG.replace(occluded_share=0.5)))
    assert occluded["train"].images.batch([0]).equal(clear["train"].images.batch([0]))
    for name in ("validation", "test"):
        images, every = occluded[name].images, np.arange(len(clear[name].index.paths))
        assert set(images.kind_of) <= {"", "mask", "glasses", "scarf"} and 0 < (images.kind_of != "").sum() < len(every)
        changed = (images.batch(every) != clear[name].images.batch(every)).flatten(1).any(1).numpy()
        assert np.array_equal(changed, images.kind_of != "") and np.array_equal(images.landmarks, DRAWN)


def test_drawing_again_is_not_needed(drawn, monkeypatch):
    before = {file: file.stat().st_mtime_ns for file in drawn.rglob("*.png")}
    assert open_data(CONFIG).root == drawn
    assert before == {file: file.stat().st_mtime_ns for file in drawn.rglob("*.png")}


def test_another_test_seed_draws_fresh_families_to_test_on_and_the_same_to_train_on(drawn):
    fresh = splits.draw_twins(CONFIG.replace(synthetic_test_seed=1))
    same = {}
    for split in ("train", "test"):
        names = sorted(file.relative_to(drawn) for file in (drawn / split).rglob("*.png"))
        same[split] = [(drawn / name).read_bytes() == (fresh / name).read_bytes() for name in names]
    assert fresh != drawn and all(same["train"]) and not any(same["test"])


def test_other_drawings_are_kept_elsewhere(drawn):
    others = [DCALConfig(**TINY | change) for change in ({"synthetic_families": 4}, {"synthetic_test_families": 3})]
    others.append(DCALConfig(**TINY, synthetic_difficulty=1.0))
    roots = [splits.draw_twins(config) for config in others]
    assert len({drawn, *roots}) == 4 and len(list((drawn / "train").iterdir())) == 2 * FAMILIES


@pytest.mark.parametrize("given", [True, False], ids=["data_root", "searched"])
def test_attached_data_has_its_folders_name(attached, capsys, given):
    data = open_data(DCALConfig(**TINY, data_root=str(attached) if given else ""))
    assert data.label == "twin-faces" and not data.synthetic
    assert "SYNTHETIC" not in capsys.readouterr().out
    assert_consistent(data)


def test_drawn_twins_stay_synthetic_however_they_are_attached(drawn, tmp_path):
    copy = shutil.copytree(drawn, tmp_path / "data" / "real-looking-name")
    for config in (DCALConfig(**TINY, data_root=str(copy)), DCALConfig(**TINY, data_root=str(tmp_path)), CONFIG):
        data = open_data(config, ["test"])
        assert data.root.samefile(copy) and data.label == "SYNTHETIC" and data.synthetic


def test_a_data_root_without_data_is_an_error_and_not_a_reason_to_draw(tmp_path):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "mistyped"):
        with pytest.raises(DataError, match=root.name):
            open_root(DCALConfig(**TINY, data_root=str(root)))
        with pytest.raises(DataError, match=root.name):
            open_data(DCALConfig(**TINY, data_root=str(root)))


@pytest.mark.parametrize("spoil", ["link", "partial", "renamed", "folder"])
def test_no_twins_are_drawn_where_the_data_is_there_and_unusable(attached, tmp_path, monkeypatch, spoil):
    monkeypatch.setattr(splits, "draw_twins", lambda config: pytest.fail("drawn"))
    index = attached / "train_twin_pairs.json"
    if spoil == "link":
        attached.rename(tmp_path / "moved")
        attached.symlink_to(tmp_path / "away")
    elif spoil == "partial":
        index.unlink()
    elif spoil == "renamed":
        index.rename(attached / "Train_Twin_Pairs.json")
    else:
        (tmp_path / "data").rename(tmp_path / "moved")
        (tmp_path / "data").symlink_to(tmp_path / "away")
    with pytest.raises(DataError, match="is a link to|lacks 1 file"):
        open_data(CONFIG)


def test_an_image_that_cannot_be_read_leaves_index_and_images_consistent(attached, capsys):
    files = sorted((attached / "train").rglob("*.png"))
    whole = open_data(DCALConfig(**TINY))
    files[0].write_bytes(files[0].read_bytes()[:60])
    files[7].write_bytes(b"no image")
    files[-1].unlink()
    data = open_data(DCALConfig(**TINY, max_lost_share=0.5))
    lost = {files[0], files[7], files[-1]}
    for name, split in data.splits.items():
        assert list(split.index.paths) == [path for path in whole[name].index.paths if path not in lost]
        assert split.index.people == whole[name].index.people
    assert_consistent(data)
    assert "cannot be decoded" in capsys.readouterr().out


def test_too_many_lost_images_are_an_error(attached):
    for file in sorted((attached / "test").rglob("*.png"))[:3]:
        Image.new("RGB", (8, 8)).save(file.with_suffix(".bmp"))
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be decoded"):
        open_data(DCALConfig(**TINY))
    open_data(DCALConfig(**TINY), ["train"])


# ---- what a reviewer has left out


@pytest.mark.parametrize("where", ["runs/prepare", "data/notebooks/owner/prepare/prepare"], ids=["output", "input"])
def test_excluded_images_are_left_out_and_no_lost_images(attached, tmp_path, capsys, where):
    whole = open_data(CONFIG)
    capsys.readouterr()
    (unread, *others), (tested, *_) = (sorted((attached / split).rglob("*.png")) for split in ("train", "test"))
    unread.write_bytes(b"no image")
    excluded = [unread, others[-1], tested]
    write_exclusions(tmp_path / where / FILE, {f"{file.parent.name}/{file.name}": "why" for file in excluded})
    data = open_data(DCALConfig(**TINY, max_lost_share=0.0))
    for name, split in data.splits.items():
        assert list(split.index.paths) == [path for path in whole[name].index.paths if path not in excluded]
        assert split.index.people == whole[name].index.people
    assert_consistent(data)
    assert f"Left out: 3 of 80 images, by {tmp_path / where / FILE}\n" in capsys.readouterr().out


def test_a_given_list_is_obeyed_and_changes_the_fingerprint(drawn, tmp_path):
    whole = open_data(CONFIG, ["train"])["train"].index
    image = Path(whole.paths[4])
    write_exclusions(tmp_path / "mine.csv", {f"{image.parent.name}/{image.name}": "why"})
    index = open_data(DCALConfig(**TINY, exclusions="mine.csv"), ["train"])["train"].index
    assert index.paths == whole.paths[:4] + whole.paths[5:] and index.fingerprint() != whole.fingerprint()


def test_drawn_twins_do_not_take_the_list_of_other_data(drawn, tmp_path, capsys):
    write_exclusions(tmp_path / "runs/prepare" / FILE, {"90004/90004d13.jpg": "why"})
    assert len(open_data(CONFIG)["train"].index.paths) == 5 * 2 * IMAGES
    assert f"{FILE} is ignored: none of the 1 images it names is in this data." in capsys.readouterr().out


def test_a_list_beside_the_attached_data_is_found(attached):
    write_exclusions(attached / FILE, {"10001/10001d00.png": "why"})
    paths = [
        path
        for split in open_data(DCALConfig(**TINY, data_root=str(attached))).splits.values()
        for path in split.index.paths
    ]
    assert len(paths) == 79 and attached / "train/10001/10001d00.png" not in paths


def test_a_stale_or_missing_list_stops_before_anything_is_read(attached, tmp_path):
    write_exclusions(tmp_path / "runs/prepare" / FILE, {"10001/10001d00.png": "why", "10001/10001d99.png": "why"})
    with pytest.raises(DataError, match="'10001/10001d99.png' that the index lacks"):
        open_data(CONFIG)
    with pytest.raises(DataError, match="nowhere.csv: No such file"):
        open_data(DCALConfig(**TINY, exclusions="nowhere.csv"))


# ---- too little to score


def with_images(root: Path, split: str, people, most: int) -> None:
    """Leave some people of an index no more than so many images."""
    file = root / f"{split}_dataset_infor.json"
    index = json.loads(file.read_text())
    file.write_text(json.dumps({one: paths[: most if one in people else None] for one, paths in index.items()}))


@pytest.mark.parametrize("recipe", [tiny.dcal_config, tiny.adaface_config])
@pytest.mark.parametrize(
    ("whose", "words"),
    [
        ("train", "train: of 5 families, 0 with two images of one person and 5 with images of co-twins"),
        ("validation", "validation: of 3 families, 0 .* takes 3 of each .*: add images and pairs to the train index"),
        ("one family of validation", "validation: of 3 families, 2 "),
        ("test", "test: of 2 families, 0 .* takes 2 of each to measure errors: add images and pairs to the test index"),
    ],
)
def test_people_with_one_image_each_are_refused_before_an_image_is_decoded(attached, monkeypatch, recipe, whose, words):
    people = {name: split.index.people for name, split in open_data(CONFIG).splits.items()}
    people["one family of validation"] = people["validation"][:2]
    with_images(attached, "test" if whose == "test" else "train", people[whose], 1)
    monkeypatch.setattr(splits, "open_images", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=words):
        open_training_data(recipe(**TINY, data_root=str(attached)))


def test_a_single_family_or_people_without_co_twins_are_refused(attached, monkeypatch):
    monkeypatch.setattr(splits, "open_images", lambda *_: pytest.fail("decoded"))
    config = DCALConfig(**TINY, data_root=str(attached))
    for file, kept, words in (
        (
            "test_twin_pairs.json",
            1,
            "test: of 3 families, 3 with two images of one person and 1 with images of co-twins",
        ),
        ("train_twin_pairs.json", 2, "validation: of 1 family, 1 "),
        ("train_twin_pairs.json", 0, "not a list of pairs of person ids, or empty"),
    ):
        pairs = (attached / file).read_text()
        (attached / file).write_text(json.dumps(json.loads(pairs)[:kept]))
        with pytest.raises(DataError, match=words):
            open_data(config)
        (attached / file).write_text(pairs)


def test_pairs_that_an_exclusion_list_takes_are_missed(attached, monkeypatch):
    held_out = open_data(CONFIG)["validation"].index
    monkeypatch.setattr(splits, "open_images", lambda *_: pytest.fail("decoded"))
    lost = [path for person in (0, 1) for path in np.array(held_out.paths)[held_out.images_of(person)[1:]]]
    write_exclusions(attached / FILE, {f"{path.parent.name}/{path.name}": "why" for path in lost})
    with pytest.raises(DataError, match="validation: of 3 families, 2 with two images"):
        open_data(DCALConfig(**TINY, data_root=str(attached)))


def test_pairs_that_unreadable_images_take_are_missed_before_training(attached):
    held_out = open_data(CONFIG)["validation"].index
    for person in (0, 1):
        for path in np.array(held_out.paths)[held_out.images_of(person)[1:]]:
            path.write_bytes(b"no image")
    with pytest.raises(DataError, match="validation: of 3 families, 2 with two images"):
        open_data(DCALConfig(**TINY, data_root=str(attached), max_lost_share=0.9))


def test_a_batch_that_the_data_cannot_fill_is_refused_before_an_image_is_decoded(attached, monkeypatch):
    monkeypatch.setattr(splits, "open_images", lambda *_: pytest.fail("decoded"))
    words = (
        "of 5 families, .* 6 with co-twins to fill a batch .families_per_batch.: give families_per_batch=5 and valid"
    )
    with pytest.raises(DataError, match=words):
        open_training_data(DCALConfig(**TINY, data_root=str(attached), families_per_batch=6))


@pytest.mark.parametrize(
    ("families", "batch", "share"), [(8, 4, 0.15), (8, 6, 0.15), (8, 2, 0.9), (20, 4, 0.01), (5, 4, 0.5)]
)
def test_the_cure_of_one_limit_does_not_run_into_the_other(families, batch, share):
    index = tiny.twins(families).index

    def reasons(batch, share):
        parts = splits.split_families(index, share, seed=0)
        return [reason for part in parts if (reason := too_little(part, families, Needs(batch)))]

    said, *_ = reasons(batch, share)
    given = dict(re.findall(r"(families_per_batch|validation_share)=([\d.]+)", said))
    assert reasons(int(given.get("families_per_batch", batch)), float(given["validation_share"])) == []
    assert "to train on" in said and "to validate on" in said


def test_families_with_pairs_of_one_kind_only_teach_nothing():
    index = tiny.twins(5).index
    images_of = np.array([2, 0, 1, 1, 2, 0, 1, 1, 1, 1])  # of each two siblings
    assert "in one family to learn from" in too_little(index, 3, images_of=images_of)
    images_of[3] = 2
    assert too_little(index, 3, images_of=images_of) == ""


@pytest.mark.parametrize("name", ["SYNTHETIC", "ND-TWINS", "my SYNTHETIC set", "a|b $1"])
def test_real_data_is_never_taken_for_drawn_twins_by_its_name(tmp_path, name):
    (tmp_path / name).mkdir()
    label = splits.label_of(tmp_path / name)
    assert name in label and not splits.TwinData(tmp_path / name, label, {}).synthetic
