"""Whether a run learns is told from its validations: on curves that were measured, on few families, over sessions."""

from pathlib import Path

import pytest
import tiny

from dcal_core.config.recipes import load
from dcal_core.recipes.catalogue import recipe_of
from dcal_core.training.checkpoints import Progress
from dcal_core.training.learning import at_chance, watch
from dcal_core.training.recipe import Recipe

PARAMS = Path(__file__).parents[2] / "params"
EVERY = 50  # batches between the validations of these curves
REACH = 2.5  # points from an EER near chance to the lower end of its interval, of 26 drawn families
# Validation EERs in percent. Those of a pretrained ViT-S at 112 px end where its trials did; from there on the last
# figure stands for the rest.
CANNOT = {
    "the paper's losses, read at CLS": (49.0, 48.9, 48.9, 49.8),
    "the paper's losses, read by place": (48.5, 47.8, 48.1),
    "other losses and rates, read at CLS": (50.1, 49.3, 49.8, 50.2, 49.6),
}
CAN = {
    "read by place, lr 2e-4": (44.5, 34.3, 34.9),
    "read by place, lr 4e-4": (42.2, 22.0, 17.9, 17.9, 13.5, 14.8),
    "the demo": (40.3, 12.8, 11.9, 4.4, 1.1, 0.9, 0.3, 0.2),
}


def recipe(preset: str = "kaggle_t4x2", **changes) -> Recipe:
    return recipe_of(load(preset, PARAMS, changes))


@pytest.fixture
def follow(capsys):
    """Lets a run go through validations whose EERs, in percent, stay at the last one; returns its progress and the
    batches at which it was told that it does not learn."""

    def run(errors, total, by=None, progress=None, reach=REACH, every=EVERY):
        by = by or recipe()
        progress = progress or Progress()
        told = []
        while progress.batch < total:
            error = errors[min(progress.batch // every, len(errors) - 1)]
            progress.batch += every
            progress.best_eer = min(progress.best_eer, error / 100)
            progress.finished = progress.batch >= total
            watch(by, progress, total, eer_low=max(0.0, error - reach) / 100)
            said = capsys.readouterr().out
            assert said in ("", f"{at_chance(by, progress)} Training goes on.\n")
            told += [progress.batch] if said else []
        return progress, told

    return run


@pytest.mark.parametrize("curve", CANNOT)
@pytest.mark.parametrize("total", [3000, 4400, 16_400])
def test_a_run_that_cannot_learn_says_so_once_and_within_its_first_tenth(follow, curve, total):
    progress, told = follow(CANNOT[curve], total)
    assert len(told) == 1 and 0.05 * total + 100 <= told[0] <= 0.1 * total
    assert progress.at_chance


@pytest.mark.parametrize("curve", CAN)
@pytest.mark.parametrize("total", [300, 4400])
def test_a_run_that_learns_is_never_told_otherwise(follow, curve, total):
    for by in (recipe(), recipe("demo")):
        progress, told = follow(CAN[curve], total, by=by)
        assert told == [] and not progress.at_chance


def test_a_short_run_is_told_when_its_warm_up_lies_behind(follow):
    assert follow([49.0], 400, by=recipe("demo"))[1] == [200]  # of 400 steps, 80 warm up
    assert follow([49.0], 250, by=recipe("adaface_demo"))[1] == [150]  # of 250, 50


def test_a_run_with_few_steps_is_told_nothing(follow):
    progress, told = follow([50.0], 99, every=9)
    assert told == [] and not progress.at_chance


def test_epochs_longer_than_a_tenth_of_the_run_tell_at_the_end_of_the_first(follow):
    assert follow([49.0], 4500, every=1500)[1] == [1500]
    progress, told = follow([49.0], 4500, every=4500)
    assert told == [] and progress.at_chance  # the sentence at the end says it


def test_families_too_few_to_tell_raise_no_alarm(follow):
    progress, told = follow([49.0], 4400, reach=9.5)
    assert told == [] and not progress.at_chance


def test_a_validation_without_an_interval_tells_nothing(follow):
    assert follow([49.0], 4400, reach=100)[1] == []


def test_a_run_that_learns_later_is_at_chance_no_more(follow):
    progress, told = follow([49.0] * 20 + [44.0], 4400)
    assert told == [350] and not progress.at_chance
    progress, told = follow([49.0] * 20 + [44.0, 49.0], 4400)  # nor if the best is behind it
    assert told == [350] and not progress.at_chance


def test_a_later_session_does_not_say_it_again(follow):
    first, told = follow([49.0], 4400, progress=Progress(batch=0))
    assert told == [350]
    again = Progress.model_validate(first.model_copy(update={"batch": 2000}).model_dump())
    assert again.at_chance and follow([49.0], 4400, progress=again)[1] == []


def test_a_run_that_is_extended_warms_up_again_first(follow):
    begun = Progress(batch=4400, schedule_from=4400, best_eer=0.47)
    progress, told = follow([49.0], 8800, progress=begun)
    assert told == [4400 + 350] and progress.at_chance


# ---- cures


def cures(preset: str, **changes) -> list[str]:
    """What is advised to a run, in its order."""
    sentence = at_chance(recipe(preset, **changes), Progress(batch=350, best_eer=0.489))
    assert "after 350 batches the best EER on held-out families is 48.9%, and chance is 50%" in sentence
    return sentence.removesuffix(".").partition("(resume=false): ")[2].split("; ")


def test_two_or_three_cures_are_chosen_by_what_hinders_most():
    data = "faces that prepare has aligned, and data in which it finds nothing wrong"
    readout = 'readout=tokens for aligned faces (now "cls")'
    supcon = 'twin_loss=supcon (now "triplet")'
    softmax = "softmax_weight=0.1 (now 1.0)"
    assert cures("kaggle_t4x2_paper") == [readout, softmax, supcon]
    assert cures("kaggle_t4x2_paper", lr=4e-4) == [readout, softmax, "lr=5e-5 (now 0.0004)"]
    assert cures("kaggle_t4x2_paper", twin_weight=0)[:2] == ["twin_weight=1 (now 0.0)", readout]
    assert cures("kaggle_t4x2") == [data]
    assert cures("kaggle_t4x2", pwca_prob=1.0) == ["pwca_prob=0.3 (now 1.0)", data]
    assert cures("kaggle_t4x2", pwca_prob=1.0, pwca_first=0) == [data]
    assert cures("demo", lr=0.01)[1] == "lr=1e-3 (now 0.01)"
    file = 'weights=a face network\'s file (now "")'
    assert cures("adaface_demo") == [file, data]
    assert cures("adaface_frozen") == [file, "frozen_backbone=false (now true)", "softmax_weight=0.1 (now 0.0)"]


@pytest.mark.parametrize("config", [tiny.dcal_config(lr=1.0), tiny.adaface_config()])
def test_every_cure_names_a_parameter_and_a_value_that_it_takes(config):
    named = recipe_of(config)
    assert len({cure.parameter for cure in named.cures}) >= 4
    for cure in named.cures:
        value = cure.value.split(" ")[0]
        changed = config.replace(**{cure.parameter: value})
        assert not cure.fits(changed), cure
