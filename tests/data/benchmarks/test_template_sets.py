"""IJB-B and IJB-C, TinyFace and IJB-S: small sets in their formats, and what is wrong with a set is refused by name."""

import numpy as np
import pytest
from face_sets import picture, write_ijb, write_ijbs, write_tinyface

from dcal_core.data.benchmarks.low_quality import read_ijbs, read_tinyface
from dcal_core.data.benchmarks.template_sets import read_ijb
from dcal_core.data.twins import DataError


@pytest.mark.parametrize(("name", "half", "title"), [("ijbb", "S", "IJB-B"), ("ijbc", "G", "IJB-C")])
def test_ijb_is_read_as_published(tmp_path, name, half, title):
    found = read_ijb(write_ijb(tmp_path, name, half=half))
    assert found.title == title and found.templates == 5  # 3, 5, 9, 20, 21
    assert found.files == [tmp_path / name.upper() / "loose_crop" / f"{number}.jpg" for number in range(1, 8)]
    assert found.template.tolist() == [0, 1, 2, 2, 2, 3, 4] and found.medium.tolist() == [70, 71, 72, 72, 73, 74, 75]
    assert found.weight.tolist() == [0.9, 0.8, 0.5, 1, 0.5, 1, 1] and found.landmarks.shape == (7, 5, 2)
    assert found.pairs.tolist() == [[0, 1, 1], [0, 2, 1], [0, 3, 0], [1, 4, 0], [2, 3, 0]]
    search = found.searches["1:N"]
    assert search.probes.tolist() == [[1, 1], [2, 1], [4, 2]]  # each template once
    assert [gallery.tolist() for gallery in search.galleries] == [[[0, 1]], [[3, 2]]]
    assert (search.ranks, search.fpir, search.joined) == ((1, 5, 10), (0.01, 0.1), False)


def test_without_the_lists_of_a_search_a_line_says_so(tmp_path, capsys):
    listing = write_ijb(tmp_path)
    (listing.parent / "ijbc_1N_gallery_G2.csv").unlink()
    assert read_ijb(listing).searches == {}
    assert "1:N is left out" in (said := capsys.readouterr().out) and "ijbc_1N_gallery_G2.csv" in said


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("template_pair_label.txt", "5 21 0", "5 22 0", "template 22 and 0 others"),
        ("template_pair_label.txt", "5 21 0", "-1 21 0", "template -1 and 0 others"),
        ("template_pair_label.txt", "5 21 0", "5 21 2", "labels [0, 1, 2]"),
        ("template_pair_label.txt", "5 21 0", "5 21", "not a table as published"),
        ("template_pair_label.txt", " 0", " 1", "labels [1]"),
        ("face_tid_mid.txt", "4.jpg 9 72\n", "", "do not list the same images"),
        ("face_tid_mid.txt", "4.jpg 9 72", "4.jpg nine 72", "not a table as published"),
        ("name_5pts_score.txt", " 0.8\n", "\n", "not a table as published"),
        ("name_5pts_score.txt", " 0.8\n", " 0\n", "confidence is not above 0"),
        ("name_5pts_score.txt", " 0.8\n", " nan\n", "confidence is not above 0"),
        ("1N_gallery_G1.csv", "3,1,", "4,1,", "template 4 and 0 others"),
        ("1N_probe_mixed.csv", "9,1,e", "9,2,e", "a template to two people"),
        ("1N_gallery_G1.csv", "3,1,", "3,8,", "IJB-C 1:N: none of 3 probes have a mate"),
        ("1N_probe_mixed.csv", "21,2,", "21,1,", "IJB-C 1:N: all of 3 probes have a mate"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path, refused, file, old, new, words):
    listing = write_ijb(tmp_path)
    file = listing.parent / f"ijbc_{file}"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with refused(DataError, words):
        read_ijb(listing)


@pytest.mark.filterwarnings("ignore:.*input contained no data")
def test_missing_and_empty_lists_are_refused(tmp_path, refused):
    listing = write_ijb(tmp_path)
    pairs = listing.parent / "ijbc_template_pair_label.txt"
    pairs.write_text("")
    with refused(DataError, pairs, "is empty"):
        read_ijb(listing)
    pairs.rename(pairs.with_suffix(".text"))
    with refused(DataError, pairs, "no such file", "ijbc_template_pair_label.text"):
        read_ijb(listing)


# ---- TinyFace


def test_tinyface_is_a_search_among_distractors(tmp_path, capsys):
    found = read_tinyface(write_tinyface(tmp_path))
    names = ["1_1", "2_1", "1_2", "1_3", "2_2", "d1", "d2"]
    assert [file.stem for file in found.files] == names and "Testing_Set" in capsys.readouterr().out
    search = found.searches["1:N"]
    assert search.probes.tolist() == [[0, 1], [1, 2]]
    assert search.galleries[0].tolist() == [[2, 1], [3, 1], [4, 2], [5, -1], [6, -1]]
    assert (search.ranks, search.fpir) == ((1, 5, 20), ()) and found.templates == 7


def test_aligned_images_beside_tinyface_are_taken_by_their_stems(tmp_path, capsys):
    listing = write_tinyface(tmp_path)
    for folder in ("Probe", "Gallery_Match", "Gallery_Distractor"):
        (tmp_path / "aligned_pad" / folder).mkdir(parents=True)
        for file in (listing.parent / folder).iterdir():
            (tmp_path / "aligned_pad" / folder / f"{file.stem}.png").write_bytes(picture(1, 2, 3))
    assert {file.parents[1] for file in read_tinyface(listing).files} == {tmp_path / "aligned_pad"}
    (tmp_path / "aligned_pad" / "Probe" / "2_1.png").unlink()
    with pytest.raises(DataError, match=r"probe_img_ID_pairs.mat: not in .*aligned_pad/Probe: .*2_1\.jpg"):
        read_tinyface(listing)


def test_a_damaged_list_of_tinyface_is_refused(tmp_path, refused):
    listing = write_tinyface(tmp_path)
    listing.write_bytes(listing.read_bytes()[:150])
    with refused(DataError, listing, "fetch it again"):
        read_tinyface(listing)


# ---- IJB-S


def test_ijbs_has_five_searches(tmp_path, capsys):
    found = read_ijbs(write_ijbs(tmp_path))
    assert "1 of " in capsys.readouterr().out  # person 3 has no face in video 12
    people = {title: search.probes[:, 1].tolist() for title, search in found.searches.items()}
    assert people == {
        "surveillance to single": [1, 1, 2, 3, 4],  # of two videos, person 1 is in both
        "surveillance to booking": [1, 1, 2, 3, 4],
        "multi-view surveillance to booking": [1, 2, 3, 4],
        "surveillance to surveillance": [1, 2, 3, 4],
        "UAV surveillance to booking": [1, 1, 2, 3, 4],  # still images of persons 1 and 2 too
    }
    assert all(search.joined and len(search.galleries) == 2 for search in found.searches.values())
    names = {}
    for template, image in zip(found.template, found.image, strict=True):
        names.setdefault(int(template), set()).add(f"{found.files[image].parent.name}/{found.files[image].stem}")
    booked = found.searches["surveillance to booking"].galleries[0]
    assert booked[:, 1].tolist() == [1, 3] and names[booked[0, 0]] == {"1/img_100", "1/img_101"}
    together = found.searches["multi-view surveillance to booking"].probes[0, 0]
    assert names[together] == {f"1/videos_{video}_{frame}" for video in (11, 12) for frame in (0, 1)}
    assert (~found.present).sum() == 1 and np.unique(found.medium).tolist() == np.unique(found.image).tolist()


def test_lists_of_ijbs_that_do_not_fit_are_refused(tmp_path, refused):
    listing = write_ijbs(tmp_path)
    listing.write_text(listing.read_text().replace("\n1,", "\none,"))
    with refused(DataError, tmp_path / "protocols", "not as published"):
        read_ijbs(listing)
    (tmp_path / "protocols" / "cs6_uav_to_single-booking_probe.csv").unlink()
    listing.write_text(listing.read_text().replace("\none,", "\n1,"))
    with refused(DataError, "cs6_uav_to_single-booking_probe.csv", "cannot be read"):
        read_ijbs(listing)


def test_faces_of_ijbs_must_be_there_once(tmp_path, refused):
    listing = write_ijbs(tmp_path)
    (tmp_path / "loose" / "1").mkdir(parents=True)
    (tmp_path / "loose" / "1" / "img_100.png").touch()
    with refused(DataError, tmp_path / "aligned/1/img_100.jpg", tmp_path / "loose/1/img_100.png", "one kind of crops"):
        read_ijbs(listing)
    for folder in ("loose", "aligned"):
        (tmp_path / folder).rename(tmp_path.with_name(f"{tmp_path.name}-{folder}"))
    with refused(DataError, tmp_path, "no face"):
        read_ijbs(listing)
