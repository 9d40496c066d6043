"""Published weights of timm's networks: found on this machine, fetched when asked, read without running code."""

import argparse
import difflib
import re
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import PretrainedCfg, get_pretrained_cfg, list_pretrained

from common.failures import Failure, Refused
from common.files import checksum_of
from common.settings.models import SHOWN

WRAPPINGS = ("state_dict_ema", "model_ema", "state_dict", "model")  # what training scripts put the weights into
PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")  # what DistributedDataParallel and torch.compile put before names
FILES = ("model.safetensors", "pytorch_model.bin")  # in the order timm prefers
CHECKSUM = re.compile(r"-([0-9a-f]{8,})\.")  # first digits of the SHA-256, as torch.hub's files carry it in their name
TORCH_FILES = (b"PK", b"\x80")  # how they begin: a zip archive, or before torch 1.6 a bare pickle


# --- what is published, and where -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """The place of a network's weights: a repository of the hub or, for a few old ones, an address of their own."""

    repository: str
    files: tuple[str, ...]  # names that the file may have there
    url: str
    cached: Path  # where torch.hub keeps what comes from the address

    @property
    def source(self) -> str:
        return self.repository or self.url


def config_of(name: str) -> PretrainedCfg:
    """Return what timm knows of the weights of NAME or NAME.TAG, and of the images that they were trained on."""
    plain = name.removeprefix("timm/")
    architecture = plain.partition(".")[0]
    try:
        return get_pretrained_cfg(plain) or PretrainedCfg()
    except RuntimeError:  # an unknown tag
        tagged = list_pretrained(f"{architecture}.*")
        nearest = difflib.get_close_matches(plain, tagged, n=SHOWN, cutoff=0)
        more = f" and {len(tagged) - SHOWN} more" if len(tagged) > SHOWN else ""
        raise ValueError(f"given {plain}, allowed: {', '.join([architecture, *nearest])}{more}") from None


def published(name: str) -> Published:
    config, plain = config_of(name), name.removeprefix("timm/")
    if not config.hf_hub_id and not config.url:
        raise Refused([f"weights: timm has none of {plain}; allowed: model.weights=FILE, or model.pretrained=false"])
    files = (config.hf_hub_filename,) if config.hf_hub_filename else FILES
    url, file = config.url if isinstance(config.url, tuple) else (config.url or "", "")
    cached = Path(torch.hub.get_dir()) / "checkpoints" / (file or PurePosixPath(urlsplit(url).path).name)
    return Published(config.hf_hub_id or "", files, url, cached)


def find_weights(name: str) -> Path:
    """Find weights in the caches of this machine, without a download; Refused if they are in none.

    The hub's cache is where HF_HOME or HF_HUB_CACHE says, torch's where TORCH_HOME says.
    """
    from huggingface_hub import try_to_load_from_cache

    where, plain = published(name), name.removeprefix("timm/")
    for file in where.files if where.repository else ():
        path = try_to_load_from_cache(where.repository, file)
        if isinstance(path, str):  # neither None nor the mark of a file that the hub does not have
            return Path(path)

    # What has an address of its own was fetched by torch.
    if not where.repository and where.cached.is_file():
        return where.cached

    raise Refused(
        [
            f"model.pretrained: the weights of {plain} ({where.source}) are not in the hub's cache here; "
            f"where there is internet, run: python jobs/prepare.py weights={plain}; or give model.weights=FILE"
        ]
    )


def weights_facts(path: Path) -> dict[str, str]:
    """Return facts for result.json: the file a run started from and, of the hub's, its repository and revision."""
    facts = {"file": str(path), "sha256": checksum_of(path, "sha256")}
    match path.parts:  # .../models--OWNER--NAME/snapshots/REVISION/FILE, as the hub's cache is laid out
        case (*_, folder, "snapshots", revision, file) if folder.startswith("models--"):
            repository = folder.removeprefix("models--").replace("--", "/")
            facts |= {"file": file, "repository": repository, "revision": revision}
    return facts


# --- the network ------------------------------------------------------------------------------------------------


class FetchFailed(Failure):
    """The weights' server could not be reached, or would not give the file."""

    kind = "node"


def fetch_weights(name: str) -> Path:
    """Download weights into the cache that find_weights searches, unless they are there.

    HF_ENDPOINT names another hub.
    """
    where = published(name)
    return _from_hub(where) if where.repository else _from_address(where)


def _from_hub(where: Published) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in where.files:
        try:
            return Path(hf_hub_download(where.repository, file))
        except LocalEntryNotFoundError as error:  # is an EntryNotFoundError too, but says that nobody was reached
            reason = _first_line(error.__cause__ or error)
            raise FetchFailed(f"{where.repository}: {constants.ENDPOINT} cannot be reached: {reason}") from None
        except EntryNotFoundError:
            continue  # the repository may have the file by its other name
        except Exception as error:  # its transport's errors belong to a library that changes with its versions
            raise FetchFailed(f"{where.repository}/{file}: {_first_line(error)}") from error
    raise FetchFailed(f"{where.repository}: holds none of {', '.join(where.files)}")


def _from_address(where: Published) -> Path:
    if where.cached.is_file():
        return where.cached
    checksum = CHECKSUM.search(where.cached.name)
    where.cached.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(where.url, str(where.cached), checksum and checksum[1], progress=False)
    except (OSError, RuntimeError) as error:  # RuntimeError: another checksum
        raise FetchFailed(f"{where.url}: {_first_line(error)}") from error
    return where.cached


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


# --- files ------------------------------------------------------------------------------------------------------


def read_weights(path: Path) -> dict[str, Any]:
    """Read tensors by name, from safetensors or from a torch file that holds nothing but tensors and plain values."""
    if not path.is_file():
        raise Refused([f"model.weights: {path} is no file"])

    content: Any
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _read_torch_file(path)
    except UnpicklingError:
        raise Refused([f"model.weights: {path} asks to run code when it is loaded; allowed: tensors alone"]) from None
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise Refused([f"model.weights: {path} is not a whole file of weights: {_first_line(error)}"]) from None
    except OSError as error:
        raise Refused([f"model.weights: {path} cannot be read: {error.strerror or error}"]) from None

    # Training scripts save more than weights, and wrap the network before they do.
    if isinstance(content, dict):
        wrapped = (content[key] for key in WRAPPINGS if isinstance(content.get(key), dict))
        content = next(wrapped, content)
        tensors = {PREFIXES.sub("", key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return tensors
    raise Refused([f"model.weights: {path} holds no tensors by name"])


def _read_torch_file(path: Path) -> Any:
    with path.open("rb") as file:
        if not file.read(2).startswith(TORCH_FILES):  # else a saved error page would be said to run code
            raise ValueError("it begins like no torch file")
    # timm's own scripts keep their options beside the weights; a Namespace is a plain record
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # a pickle not by torch is refused anyway
        return torch.load(path, "cpu", weights_only=True)
