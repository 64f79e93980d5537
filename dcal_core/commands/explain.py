"""The command `explain`: maps of the test families, of two images, or of lists of pairs, as files."""

from pathlib import Path

import numpy as np

from dcal_core.audit.gate import Gate, Picture, open_picture
from dcal_core.commands.maps import (
    TITLE,
    compare_kinds,
    gate_of,
    open_explorer,
    rule_of,
    sampled,
    trained_model,
    trust_of,
    trust_title,
    write_result,
    write_view,
)
from dcal_core.commands.options import given_parameters, read_options
from dcal_core.commands.session import Session, begin_with_trained
from dcal_core.data.images import ImageStore, open_images
from dcal_core.data.pair_lists import families_of_pairs, read_pairs
from dcal_core.data.splits import SYNTHETIC
from dcal_core.data.twins import LISTED, DataError
from dcal_core.environment import scratch_root
from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.comparison import comparison_table, draw_comparison, mean_face
from dcal_core.explain.explorer import given_pair
from dcal_core.explain.pair_figures import stem_of, write_figure
from dcal_core.explain.trust import caveats, conclusions_table, draw_faithfulness, faithfulness_table
from dcal_core.runs import RunFolder
from dcal_core.storage import DamagedError, read_json
from dcal_core.verification.decision import DecisionRule
from dcal_core.verification.protocol import Pairs
from dcal_core.verification.statements import is_guessing

SHOWN = 6  # confusing pairs whose files are written


def explain_files(session: Session, files: list[Path]) -> list[Path]:
    """Explain two aligned face images, as files; raises DataError with the reason if they cannot be compared."""
    label = label_of_given(session)
    gate = gate_of(session, SYNTHETIC in label)
    rule = rule_of(session)
    view, answer, notes = given_pair(trained_model(session), rule, gate, files)
    notes = [*limits_of_model(session, rule, label), *notes]
    print(*notes, answer, sep="\n")
    return write_view(session, view, label, answer, notes)


def limits_of_model(session: Session, rule: DecisionRule | None, label: str) -> list[str]:
    """Why a verdict of this model deserves less trust, whatever the images."""
    found = []
    if SYNTHETIC in label:
        found.append("The model knows drawn faces only (SYNTHETIC): its answer says nothing about photographs.")
    if rule is None:
        return found
    report = RunFolder.around(session.trained).report
    try:
        result = read_json(report) if report.is_file() else {}
    except DamagedError as error:
        return [*found, str(error)]
    if result.get("weights") == rule.weights and is_guessing(result):
        found.append("The model is not shown to be better than guessing (report.html): do not rely on its verdict.")
    if rule.calibration is None:
        found.append(
            "No likelihood ratio: the scores of the validation families could not be calibrated. Train longer, or on "
            "more families, and evaluate again."
        )
    return found


def label_of_given(session: Session) -> str:
    """The label of images that the user gives: they may show anyone."""
    return f"images given, model trained on {RunFolder.around(session.trained).data()}"


def explain_lists(session: Session, same: Path, twins: Path) -> list[Path]:
    """Compare listed pairs of one person with listed pairs of co-twins, as files in a folder named after the lists;
    raises DataError with the reason if pairs cannot be compared."""
    lists = [read_pairs(same), read_pairs(twins)]
    joined = [pair for one in lists for pair in one]
    paths, place = np.unique([str(path) for pair in joined for path in pair], return_inverse=True)
    config = session.config
    label = label_of_given(session)
    pictures = {path: open_picture(path, config.image_size, config.fit) for path in map(Path, paths)}
    seen = [[(pictures[a], pictures[b]) for a, b in one] for one in lists]
    refuse_pairs_in_both(*seen, f"{same} and {twins}")
    notes = look_at_lists(gate_of(session, SYNTHETIC in label), [pair for one in seen for pair in one])
    images = open_images(list(paths), config.image_size, scratch_root() / "decoded", max_lost_share=0.0, fit=config.fit)
    a, b = place.reshape(-1, 2).T
    genuine = np.repeat([True, False], [len(one) for one in lists])
    pairs = Pairs(a, b, genuine, families_of_pairs(joined))
    comparison = {"notes": notes} | compare_kinds(trained_model(session), images, pairs, SYNTHETIC in label)
    folder = session.folder.explained / "lists" / stem_of((str(same), str(twins)))
    return write_comparison(folder, folder, comparison, images, label)


def refuse_pairs_in_both(same: list[tuple[Picture, Picture]], twins: list[tuple[Picture, Picture]], lists: str) -> None:
    """DataError if pictures that are listed as one person's, or copies of them, are also listed as co-twins'."""
    known = {frozenset((a.digest, b.digest)) for a, b in same}
    if both := [f"{a.name} and {b.name}" for a, b in twins if {a.digest, b.digest} in known]:
        raise DataError(
            f"{lists}: {len(both)} {'pair' if len(both) == 1 else 'pairs'} in both lists, first {both[0]}: "
            "a pair shows one person or two."
        )


def look_at_lists(gate: Gate, pairs: list[tuple[Picture, Picture]]) -> list[str]:
    """What must be said before these pairs are compared, and the first of it printed; raises DataError if some cannot
    be compared."""
    found = gate.look(pairs)
    if found.stops:
        raise DataError(f"No comparison: {' '.join(some_of(found.stops))} Take them out of the lists.")
    for sentence in (*some_of(found.doubts), *found.unchecked):
        print(sentence)
    return found.sentences


def some_of(sentences: list[str]) -> list[str]:
    """The first few sentences, and the number of the others."""
    more = len(sentences) - LISTED
    return [*sentences[:LISTED], *([f"And {more:,} more."] if more > 0 else [])]


def write_comparison(folder: Path, figures: Path, comparison: dict, images: ImageStore, label: str) -> list[Path]:
    """Print how the two kinds of pairs differ, and write it to one folder and its figures to another."""
    files = [write_result(folder, "comparison", {"data": label} | comparison)]
    face = mean_face(images)
    for name in comparison["maps"]:
        file = figures / f"comparison_{MAPS[name].file_name}.png"
        files.append(write_figure(file, draw_comparison(comparison, name, face, label)))
    print(f"\n{comparison_table(comparison, 'distinctive')}\n")
    return files


def explain_test(session: Session) -> list[Path]:
    """Explain the test families, as files: confusing pairs, both kinds of pairs compared, and how far to trust maps."""
    explorer = open_explorer(session)
    config = session.config
    explained, figures = session.folder.explained, session.folder.figures
    trust = trust_of(session, explorer)
    files = [write_result(explained, "faithfulness", trust)]  # the pairs' pages say what it shows
    files.append(session.keep(draw_faithfulness(trust["maps"], trust_title(trust)), "faithfulness"))
    for turn in range(min(SHOWN, len(explorer.order))):
        pair = explorer.confusing(turn)
        files += write_view(session, explorer.view(*pair), explorer.label, explorer.judged(*pair))
    pairs = sampled(explorer, config)
    co_twins = explorer.index.co_twins
    comparison = compare_kinds(explorer.model, explorer.images, pairs, explorer.data.as_drawn, co_twins)
    files += write_comparison(explained, figures, comparison, explorer.images, explorer.label)
    print(faithfulness_table(trust["maps"]), conclusions_table(trust["maps"]), *caveats(trust["maps"]), sep="\n\n")
    return files


def main(arguments: list[str]) -> int:
    """What attention.ipynb does, without its browser."""
    options = read_options("explain", arguments)
    given, params_dir = given_parameters(options)
    session = begin_with_trained(TITLE, given, params_dir)
    if options.images:
        files = explain_files(session, options.images)
    elif options.same:
        files = explain_lists(session, options.same, options.twins)
    else:
        files = explain_test(session)
    print("Files:", *files, sep="\n  ")
    return 0
