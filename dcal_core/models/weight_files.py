"""Reading files of pretrained weights; none can run code unless it is trusted."""

import re
import zipfile
from pathlib import Path

from dcal_core.errors import ConfigError

RESAVE = "s = torch.load('FILE', 'cpu', weights_only=False); torch.save(s.get('state_dict', s), 'weights.pt')"


def check_archive(file: Path) -> None:
    """Refuse a zip archive that is not as torch wrote it; ValueError. torch itself ignores the checksums, and unpacks
    compressed entries to up to a thousand times their size."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, which torch never does")
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")


def read_state(file: Path, trusted: bool = False) -> dict:
    """The state dict in a file, without the prefixes of wrappers, as timm reads it.

    A pickle that asks for more than tensors, and so could run any code, is refused unless the file is trusted.
    """
    if not file.is_file():
        raise ConfigError(f"weights={file}: there is no such file. Give the path of one.")
    from timm.models import load_state_dict  # takes seconds to import, and a run without a file needs no timm

    try:
        check_archive(file)
        return load_state_dict(str(file), weights_only=not trusted)
    except ModuleNotFoundError as error:  # a trusted pickle, of a trainer's own classes
        raise ConfigError(
            f"weights={file} asks for the module {error.name}, which is not installed: install it, or re-save the "
            f'tensors alone where it is (python -c "import torch; {RESAVE}").'
        ) from None
    except Exception as error:  # damaged files raise whatever their reader raises
        reason = " ".join(f"{error} {error.__cause__ or ''}".split()) or type(error).__name__
        if re.search("weights.only", reason, re.IGNORECASE) and not trusted:
            asked = re.search(r"(?:GLOBAL|globals:) ([\w.]*\w)", reason)
            what = f"a pickle that asks for {asked[1]:.100}" if asked else "no weights, or a pickle that asks for more"
            raise ConfigError(
                f"weights={file} is {what} and so could run any code: it was not loaded. "
                "Take a .safetensors file; or re-save the tensors alone on a machine where nothing can be harmed "
                f'(python -c "import torch; {RESAVE}"); or, if its source is beyond doubt, give trust_weights=true.'
            ) from None
        raise ConfigError(f"weights={file} cannot be read as weights ({reason[-200:]}): give another file.") from None
