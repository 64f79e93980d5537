"""What other commands have found out about a run's model, for its report: only what is of the same weights."""

from pathlib import Path

from dcal_core.commands.session import Session
from dcal_core.deploy.ranges import range_in_words
from dcal_core.runs import found_of

NO_MAPS = (
    "Not measured before this report: attention.ipynb or “twins explain” measures it and shows it on its own page. "
    "Evaluate again to have it here."
)
NO_RANGE = (
    "The range of images (sharpness, size, turn, light) in which these figures hold was not measured before this "
    "report: deploy.ipynb or “twins pack” measures it. Evaluate again to have it here."
)


def known_of_model(session: Session) -> dict:
    """For the result of an evaluation: `maps`, sentences; `images`, one; and `sensitivity`, sentences, where there is a
    figure too."""
    folder = session.folder
    maps = found_of(session.trained, folder.faithfulness)
    images = found_of(session.trained, folder.range)
    known = {"maps": maps.get("sentences", [NO_MAPS]), "images": NO_RANGE}
    if images:
        limits = range_in_words(images["limits"])
        known["images"] = f"Validated range of images: {limits}. {images['about']}"
    if sensitivity_picture(session).is_file() and (found := found_of(session.trained, folder.sensitivity)):
        known["sensitivity"] = found["sentences"]
    return known


def sensitivity_picture(session: Session) -> Path:
    """The figure that the command `sensitivity` leaves."""
    return session.folder.figures / "sensitivity.png"
