"""Published weights of timm's networks: found in the hub's cache, fetched when asked, loaded without running code."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from common.failures import Failure, Refused

WRAPPINGS = ("state_dict_ema", "model_ema", "state_dict", "model")  # what training scripts put the weights into
FILES = ("model.safetensors", "pytorch_model.bin")  # in the order timm prefers


def published(name: str) -> tuple[str, tuple[str, ...]]:
    """Where the hub has the weights of a network (NAME or NAME.TAG): repository, and the names its file may have."""
    from timm.models import get_pretrained_cfg, list_pretrained

    architecture, _, tag = name.removeprefix("timm/").partition(".")
    config = get_pretrained_cfg(architecture)
    tags = [each.partition(".")[2] for each in list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise Refused(
            [f"weights: timm has none of {name}, allowed: {', '.join(f'{architecture}.{each}' for each in tags)}"]
        )
    if tag:
        config = get_pretrained_cfg(f"{architecture}.{tag}")
    if config is None or not config.hf_hub_id:
        raise Refused([f"weights: the hub has none of {name}; allowed: model.weights=FILE, or model.pretrained=false"])
    return config.hf_hub_id, (config.hf_hub_filename,) if config.hf_hub_filename else FILES


def find_weights(name: str) -> Path:
    """Of the hub's cache on this machine; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    repository, files = published(name)
    for file in files:
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
    plain = name.removeprefix("timm/")
    raise Refused(
        [
            f"model.pretrained: the weights of {plain} ({repository}) are not in the hub's cache here; "
            f"where there is internet, run: python jobs/prepare.py weights={plain}; or give model.weights=FILE"
        ]
    )


class FetchFailed(Failure):
    """The hub could not be reached, or would not give the file."""

    kind = "node"


def fetch_weights(name: str) -> Path:
    """Download into the hub's cache (HF_HOME, HF_HUB_CACHE), unless it is there. HF_ENDPOINT names another hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    repository, files = published(name)
    for file in files:
        try:
            return Path(hf_hub_download(repository, file))
        except LocalEntryNotFoundError as error:  # is an EntryNotFoundError too, but says that nobody was reached
            raise FetchFailed(f"{repository}: the hub cannot be reached from here: {_first_line(error)}") from None
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise FetchFailed(f"{repository}/{file}: {_first_line(error)}") from None
    raise FetchFailed(f"{repository}: holds none of {', '.join(files)}")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def read_weights(path: Path) -> dict[str, Any]:
    """Tensors by name, from safetensors or from a torch file that holds nothing but tensors and plain values."""
    if not path.is_file():
        raise Refused([f"model.weights: {path} is no file"])
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except UnpicklingError:
        raise Refused([f"model.weights: {path} asks to run code when it is loaded; allowed: tensors alone"]) from None
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise Refused([f"model.weights: {path} is not a whole file of weights: {_first_line(error)}"]) from None
    for wrapping in (key for key in WRAPPINGS if isinstance(content.get(key), dict)):
        content = content[wrapping]
        break
    tensors = {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise Refused([f"model.weights: {path} holds no tensors"])
    return tensors


def check_loaded(net: nn.Module, blank: nn.Module, path: Path) -> None:
    """timm forgives missing weights where the classifier is another; but every other matrix must have been replaced."""
    before = dict(blank.named_parameters())
    own = {id(weight) for weight in net.get_classifier().parameters()}  # type: ignore[operator]
    untouched = [
        name
        for name, weight in net.named_parameters()
        if weight.ndim > 1 and id(weight) not in own and weight.equal(before[name])
    ]
    if untouched:
        raise Refused([f"model.weights: {path} is of another architecture: it has no {', '.join(untouched[:3])}"])
