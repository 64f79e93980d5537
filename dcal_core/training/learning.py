"""Whether a run learns at all, by its validations: the training loss falls in runs that learn nothing, too."""

import json

from dcal_core.training.checkpoints import Progress
from dcal_core.training.recipe import Recipe

NEAR_CHANCE = 0.45  # EER; a pretrained network that knows nothing of these twins is at 0.47 to 0.50 itself
LEARNT = 0.40  # an EER that the interval over families must exclude, so that a few unlucky ones raise no alarm
SETTLED = 100  # steps since the learning rate has risen; in trials, what learnt at all was below NEAR_CHANCE by then
DATA = "faces that prepare has aligned, and data in which it finds nothing wrong"
MOST_CURES = 3
DIAGNOSE = "`twins diagnose RUN` looks for the cause"


def settled(recipe: Recipe, step: int, steps: int) -> bool:
    """Whether, at a step of so many, the learning rate has not risen for long enough to judge what is learnt."""
    return step >= SETTLED and recipe.lr_at(step, steps) <= recipe.lr_at(step - SETTLED, steps)


def watch(recipe: Recipe, progress: Progress, total: int, eer_low: float) -> None:
    """After a validation, note in the progress whether nothing has been learnt, and say so when it is noticed.

    total: steps of the run; eer_low: the lower end of this EER's 95 % interval over families. A run that learns later
    is at chance no more.
    """
    step = progress.batch - progress.schedule_from
    steps = total - progress.schedule_from
    before = progress.at_chance
    unlearnt = settled(recipe, step, steps) and eer_low > LEARNT
    progress.at_chance = progress.best_eer >= NEAR_CHANCE and (before or unlearnt)
    if progress.at_chance and not (before or progress.finished):  # what has finished is summed up later
        print(f"{at_chance(recipe, progress)} Training goes on.")


def at_chance(recipe: Recipe, progress: Progress) -> str:
    """That a run has learnt nothing, and what most likely cures it."""
    config = recipe.config
    cures = [
        f"{cure.parameter}={cure.value} (now {json.dumps(getattr(config, cure.parameter))})"
        for cure in recipe.cures
        if cure.fits(config)
    ]
    return (
        f"This run does not learn: after {progress.batch} batches the best EER on held-out families is "
        f"{progress.best_eer:.1%}, and chance is 50%, whatever the training loss does. {DIAGNOSE}. Most likely cures, "
        f"in a new run (resume=false): {'; '.join([*cures, DATA][:MOST_CURES])}."
    )
