"""Published weights: where they are looked for, how they are fetched from a hub, and which files are refused.

The hub of these tests is a server on this machine that answers as the hub does.
"""

import argparse
import hashlib
import http.server
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models import PretrainedCfg

from common.failures import Refused, classify
from common.models.weights import FetchFailed, config_of, fetch_weights, find_weights, read_weights, weights_facts

REPOSITORY = Path(__file__).parents[3]
HUB_NAME = "timm/test_resnet.r160_in1k"  # the hub's own name of the weights of test_resnet
COMMIT = "c" * 40
BODY = bytes(range(256)) * 40


def make_the_hub(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT does, which the hub's client reads once, when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty ones, and a hub that cannot be reached."""
    make_the_hub("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the attempts of the hub's client
    return tmp_path


def put_into_cache(caches: Path, file: str = "model.safetensors", content: bytes = BODY) -> Path:
    """As huggingface_hub lays its cache out: the content by its checksum, a snapshot of links, and what main is."""
    repository = caches / "hub" / f"models--{HUB_NAME.replace('/', '--')}"
    blob, snapshot = repository / "blobs" / hashlib.sha256(content).hexdigest(), repository / "snapshots" / COMMIT
    for folder in (blob.parent, snapshot, repository / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / file).symlink_to(Path("../../blobs") / blob.name)
    return snapshot / file


class Hub(http.server.ThreadingHTTPServer):
    """Holds one file, of which it gives `sent` bytes; remembers which files it was asked for."""

    def __init__(self, file: str = "model.safetensors", repository: str = HUB_NAME, sent: int = len(BODY)) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.path, self.sent = f"/{repository}/resolve/main/{file}", sent
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Silent."""

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(BODY[: self.server.sent])

    def answer(self, body: bytes) -> None:
        repository = self.server.path.partition("/resolve/")[0]
        if self.path.startswith(repository):
            self.server.asked.append(f"{self.command} {self.path.rpartition('/')[2]}")
        known = self.path == self.server.path
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(BODY) if known else 0))
        if known:
            self.send_header("ETag", f'"{hashlib.sha256(BODY).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        else:
            self.send_header("X-Error-Code", "EntryNotFound" if self.path.startswith(repository) else "RepoNotFound")
        self.end_headers()
        if known:
            self.wfile.write(body)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Hub], Hub]]:
    """Starts a hub, which everything that asks for the hub then reaches."""
    running: list[tuple[Hub, threading.Thread]] = []

    def start(hub: Hub) -> Hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((hub, thread))
        make_the_hub(hub.address, monkeypatch)
        return hub

    yield start
    for hub, thread in running:
        hub.shutdown()
        thread.join()
        hub.server_close()


# --- what is published ------------------------------------------------------------------------------------------


def test_a_name_with_and_without_its_tag_and_prefix() -> None:
    assert config_of("timm/resnet18") == config_of("resnet18") == config_of("resnet18.a1_in1k")
    assert config_of("resnet18.tv_in1k").hf_hub_id == "timm/resnet18.tv_in1k"


def test_an_unknown_tag_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"^given resnet18\.tv_in2k, allowed: resnet18, resnet18\.tv_in1k, .* and 2 more$"
    ):
        config_of("resnet18.tv_in2k")
    with pytest.raises(ValueError, match=r"^given test_resnet\.x, allowed: test_resnet, test_resnet\.r160_in1k$"):
        fetch_weights("timm/test_resnet.x")
    with pytest.raises(ValueError, match=r"^given test_resnet\., allowed: test_resnet, test_resnet\.r160_in1k$"):
        find_weights("test_resnet.")


@pytest.mark.parametrize("ask", [find_weights, fetch_weights])
def test_what_was_never_published_is_refused(ask: Callable[[str], Path]) -> None:
    with pytest.raises(
        Refused, match=r"^weights: timm has none of resnet26t_x; allowed: model\.weights=FILE, or model"
    ):
        ask("timm/resnet26t_x")


# --- found on this machine --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_the_hubs_cache_is_found_as_the_hub_lays_it_out(file: str, caches: Path) -> None:
    expected = put_into_cache(caches, file)
    assert find_weights("test_resnet") == find_weights("timm/test_resnet.r160_in1k") == expected
    assert expected.read_bytes() == BODY


def test_safetensors_come_first(caches: Path) -> None:
    put_into_cache(caches, "pytorch_model.bin", b"older")
    preferred = put_into_cache(caches)
    assert find_weights("test_resnet") == preferred


def test_a_cache_whose_file_is_gone_holds_nothing(caches: Path) -> None:
    put_into_cache(caches).resolve().unlink()
    with pytest.raises(Refused, match="are not in the hub's cache here"):
        find_weights("test_resnet")


def test_where_there_are_none_the_refusal_says_how_to_get_them(serve: Callable[[Hub], Hub]) -> None:
    hub = serve(Hub())
    with pytest.raises(Refused) as refusal:
        find_weights("timm/test_resnet")
    assert refusal.value.problems == [
        "model.pretrained: the weights of test_resnet (timm/test_resnet.r160_in1k) are not in the hub's cache here; "
        "where there is internet, run: python jobs/prepare.py weights=test_resnet; or give model.weights=FILE"
    ]
    assert hub.asked == []


def test_facts_name_the_repository_and_revision_or_the_file(caches: Path) -> None:
    sha256 = hashlib.sha256(BODY).hexdigest()
    found = weights_facts(put_into_cache(caches))
    assert found == {"file": "model.safetensors", "repository": HUB_NAME, "revision": COMMIT, "sha256": sha256}
    own = caches / "own.pth"
    own.write_bytes(BODY)
    assert weights_facts(own) == {"file": str(own), "sha256": sha256}
    assert weights_facts(Path(own.name)) == {"file": "own.pth", "sha256": sha256}


# --- fetched ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_fetched_is_then_found(file: str, serve: Callable[[Hub], Hub]) -> None:
    hub = serve(Hub(file))
    path = fetch_weights("test_resnet")
    assert path.read_bytes() == BODY
    assert path == find_weights("test_resnet")
    assert weights_facts(path)["revision"] == COMMIT
    assert hub.asked[-2:] == [f"HEAD {file}", f"GET {file}"]
    assert fetch_weights("test_resnet") == path
    assert hub.asked.count(f"GET {file}") == 1


def test_a_hub_that_does_not_have_it(serve: Callable[[Hub], Hub]) -> None:
    serve(Hub("README.md"))
    with pytest.raises(FetchFailed, match=rf"^{HUB_NAME}: holds none of model\.safetensors, pytorch_model\.bin$"):
        fetch_weights("test_resnet")
    serve(Hub(repository="timm/another"))
    with pytest.raises(FetchFailed, match=rf"^{HUB_NAME}/model\.safetensors: 404 Client Error"):
        fetch_weights("test_resnet")


def test_a_hub_that_breaks_off_leaves_nothing_that_is_found(serve: Callable[[Hub], Hub]) -> None:
    serve(Hub(sent=1000))
    with pytest.raises(FetchFailed, match=rf"^{HUB_NAME}/model\.safetensors: .*1000 bytes"):
        fetch_weights("test_resnet")
    with pytest.raises(Refused, match="are not in the hub's cache here"):
        find_weights("test_resnet")


def test_without_a_network_it_is_the_network_that_failed() -> None:
    with pytest.raises(
        FetchFailed, match=rf"^{HUB_NAME}: http://127\.0\.0\.1:9 cannot be reached: .*refused"
    ) as failure:
        fetch_weights("test_resnet")
    assert classify(failure.value) == "node"


def test_the_whole_command_respects_the_hubs_own_variables(serve: Callable[[Hub], Hub], tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": serve(Hub()).address, "PYTHONPATH": str(REPOSITORY)}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | home
    done = subprocess.run(
        [sys.executable, REPOSITORY / "jobs" / "prepare.py", "weights=test_resnet"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip().removeprefix("test_resnet: "))
    assert path.is_relative_to(tmp_path / "home" / "hub")
    assert path.read_bytes() == BODY


# --- at an address of their own ---------------------------------------------------------------------------------


def test_a_few_old_ones_are_in_the_cache_of_torch(caches: Path) -> None:
    """gcvit's are no repository of the hub; timm keeps them where torch.hub does."""
    address = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights-morevit/"
    name = "gcvit_xxtiny_224_nvidia-d1d86009.pth"
    with pytest.raises(Refused, match=rf"weights of gcvit_xxtiny \({re.escape(address + name)}\) are not in"):
        find_weights("gcvit_xxtiny")
    path = caches / "torch" / "hub" / "checkpoints" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert find_weights("gcvit_xxtiny") == fetch_weights("gcvit_xxtiny") == path


@pytest.mark.parametrize("named", [False, True])
def test_they_are_fetched_from_there(
    named: bool, caches: Path, serve: Callable[[Hub], Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = hashlib.sha256(BODY).hexdigest()[:8]
    hub = serve(Hub(file=f"net-{right}.pth"))
    address = hub.address + hub.path
    config = PretrainedCfg(url=(address, f"own-{right}.pth") if named else address)
    monkeypatch.setattr("common.models.weights.get_pretrained_cfg", lambda _: config)
    path = fetch_weights("gcvit_xxtiny")
    assert path == caches / "torch" / "hub" / "checkpoints" / f"{'own' if named else 'net'}-{right}.pth"
    assert path.read_bytes() == BODY
    assert find_weights("gcvit_xxtiny") == path
    assert fetch_weights("gcvit_xxtiny") == path
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("file", "message"),
    [("net-00000000.pth", "invalid hash value"), ("gone-00000000.pth", "HTTP Error 404")],
)
def test_what_is_not_what_its_name_promises_is_not_kept(
    file: str, message: str, caches: Path, serve: Callable[[Hub], Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = serve(Hub(file="net-00000000.pth"))
    address = hub.address + hub.path.replace("net-00000000.pth", file)
    monkeypatch.setattr("common.models.weights.get_pretrained_cfg", lambda _: PretrainedCfg(url=address))
    with pytest.raises(FetchFailed, match=f"^{re.escape(address)}: {message}"):
        fetch_weights("gcvit_xxtiny")
    assert list((caches / "torch" / "hub" / "checkpoints").iterdir()) == []


# --- files ------------------------------------------------------------------------------------------------------

TENSORS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 7, "args": argparse.Namespace(lr=0.1)},  # timm's training script
        {"model": TENSORS},  # DeiT's
        {"model": {"conv.weight": torch.zeros(2, 3)}, "model_ema": TENSORS},  # the average is what was published
        {f"module._orig_mod.{key}": tensor for key, tensor in TENSORS.items()},
        {**TENSORS, "epoch": 7, "optimizer": {"lr": 0.1}},
    ],
    ids=["plain", "timm", "deit", "ema", "wrapped network", "other entries"],
)
@pytest.mark.parametrize("older_format", [False, True])
def test_torch_files_of_every_kind_give_the_same_tensors(content: dict[str, Any], older_format: bool) -> None:
    path = Path("weights.pth")
    torch.save(content, path, _use_new_zipfile_serialization=not older_format)
    found = read_weights(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


def test_safetensors() -> None:
    save_file(TENSORS, "weights.safetensors")
    found = read_weights(Path("weights.safetensors"))
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


class RunsCode:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return (Path.touch, (Path("ran"),))


def half_a_file(path: Path) -> None:
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


REFUSED: list[tuple[str, Callable[[Path], object], str]] = [
    (
        "a.pth",
        lambda path: path.write_bytes(pickle.dumps(RunsCode(), protocol=2)),
        "asks to run code when it is loaded",
    ),
    (
        "b.pth",
        lambda path: path.write_bytes(pickle.dumps(RunsCode())),
        "asks to run code when it is loaded; allowed: tens",
    ),
    (
        "c.pth",
        lambda path: torch.save({"model": RunsCode()}, path),
        "asks to run code when it is loaded; allowed: tensors",
    ),
    ("d.bin", lambda path: torch.save({"model": torch.nn.Linear(2, 2)}, path), "asks to run code when it is loaded"),
    ("e.pth", half_a_file, "is not a whole file of weights: PytorchStreamReader failed"),
    ("f.pth", lambda path: path.write_bytes(b""), "is not a whole file of weights: it begins like no torch file"),
    (
        "g.pth",
        lambda path: path.write_text("<html>404"),
        "is not a whole file of weights: it begins like no torch file",
    ),
    (
        "h.safetensors",
        lambda path: path.write_text("version https"),
        "is not a whole file of weights: Error while deser",
    ),
    ("i.safetensors", lambda path: torch.save(TENSORS, path), "is not a whole file of weights: Error while deser"),
    ("j.pth", lambda path: torch.save({"epoch": 3}, path), "holds no tensors by name"),
    ("k.pth", lambda path: torch.save([torch.ones(2)], path), "holds no tensors by name"),
    ("l.pth", lambda path: torch.save(torch.ones(2), path), "holds no tensors by name"),
    ("m.pth", lambda path: path.mkdir(), "is no file"),
    ("n.pth", lambda _: None, "is no file"),
]


@pytest.mark.parametrize(("name", "write", "message"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_files_that_are_refused(name: str, write: Callable[[Path], object], message: str) -> None:
    write(Path(name))
    with pytest.raises(Refused, match=rf"^model\.weights: {re.escape(name)} {message}"):
        read_weights(Path(name))
    assert not Path("ran").exists()


def test_the_code_in_these_tests_would_run_if_it_were_let() -> None:
    pickle.loads(pickle.dumps(RunsCode()))  # noqa: S301 - which is the point
    assert Path("ran").exists()
