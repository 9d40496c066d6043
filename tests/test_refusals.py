"""Wrong command lines, as a user would type them: refused with one line per problem, and nothing is written."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from common.cli.compose import PRESETS
from common.data.publishers.catalog import DATASETS
from common.settings.entries import TrainCNN
from common.settings.messages import folded
from jobs.prepare import main as prepare
from train.train_cnn import main as train_cnn

REPOSITORY = Path(__file__).parent.parent


def names_of(group: str) -> str:
    """List the presets that lie in the folder of a group, as a refusal lists them."""
    return ", ".join(sorted(path.stem for path in (PRESETS / group).glob("*.yaml")))


DATA = ", ".join(folded([name for name, published in DATASETS.items() if not published.evaluation_only]))
PREPARED = f"{DATA}, broken, flowers, photos"  # with those of the world below
NO_SUCH_SET = "; images of your own: python jobs/prepare.py data=image_folder"
PREPARABLE = ", ".join([*folded(list(DATASETS)), "image_folder"])
RECIPES, AUGMENTS = names_of("recipe"), names_of("augment")
TOP = "root, data_dir, config, force, dry_run, entry, seed, data, model, compute, log, augment, recipe"
SEEDS = "whole number, 0 to 4294967295"
WEIGHTS = b"weights"
WEIGHTS_DIGEST = hashlib.sha256(WEIGHTS).hexdigest()[:16]


@pytest.fixture(autouse=True)
def world(alone: None) -> None:
    """The folder that the command lines below are typed in."""
    Path("a-file").write_text("I am a file.")
    for name, manifest in {
        "flowers": '{"digest": "0f3a"}',
        "broken": '{"digest": ',
        "photos": '{"digest": "0f3a", "sets": {"test": {}}}',
        "stl10": '{"digest": "0f3a"}',
    }.items():
        Path("data", name).mkdir(parents=True)
        Path("data", name, "manifest.json").write_text(manifest)
    files = {
        "empty.yaml": "",
        "large.yaml": "seed: 3" + "\n" * 1_000_000,
        "list.yaml": "- seed: 3\n",
        "text.yaml": "seed 3\n",
        "binary.yaml": "seed: \x00\n",
        "unclosed.yaml": "recipe: {lr: 1\n",
        "twice.yaml": "seed: 1\nrecipe: {}\nseed: 2\n",
        "other.yaml": yaml.safe_dump(TrainCNN().model_dump() | {"entry": "distill_kd"}),
        "keys.yaml": "sed: 3\nrecipe: {lr: 0.1, epoch: 4}\n",
        "values.yaml": "seed: '3'\nrecipe: {lr: -1}\nmodel: adaptive_cnn\n",
        "scalar.yaml": "recipe: cnn\n",
        "result.json": '{"entry": "train_cnn", "run": "x", "data": {}, "model": {}, "val": {}, "test": {}, "cost": {}}',
        "foreign.yaml": yaml.safe_dump({"data": {"name": "flowers", "digest": "77cc"}}),
    }
    for name, text in files.items():
        Path(name).write_text(text)
    Path("a.safetensors").write_bytes(WEIGHTS)
    Path("latin1.yaml").write_bytes("# größer\nseed: 3\n".encode("latin-1"))


# The words of a command line (one string is split at spaces) -> what each line says, in order: its beginning and,
# after "...", what else it says in this order. The end of the line is written "\\n".
TRAINING: list[tuple[str | list[str], list[str]]] = [
    # keys
    ("sed=3", [f"sed: no such setting, nearest: seed; allowed: {TOP}"]),
    ("epochs=5", [f"epochs: no such setting, nearest: recipe.epochs; allowed: {TOP}"]),
    ("dryrun=true", [f"dryrun: no such setting, nearest: dry_run; allowed: {TOP}"]),
    ("flp=1", ["flp: no such setting, nearest: augment.flip; allowed: root, "]),
    ("lr=1", ["lr: no such setting, nearest: recipe.lr; allowed: root, "]),
    ("model.lr=1", ["model.lr: no such setting, nearest: recipe.lr; allowed: model.name, "]),
    ("recipe.dropout=1", ["recipe.dropout: no such setting, nearest: model.dropout; allowed: recipe.epochs, "]),
    ("recipe.optimiser=1", ["recipe.optimiser: no such setting, nearest: recipe.optimizer; allowed: recipe.epochs, "]),
    ("recipie.lr=1", ["recipie.lr: no such setting, nearest: recipe.lr; allowed: root, "]),
    ("Recipe.LR=1", ["Recipe.LR: no such setting, nearest: recipe.lr; allowed: root, "]),
    ("data-dir=1", ["data-dir: no such setting, nearest: data_dir; allowed: root, "]),
    ("device=1", ["device: no such setting, nearest: compute.device; allowed: root, "]),
    ("qqqq=1", ["qqqq: no such setting; allowed: root, "]),
    ("teacher=resnet", ["teacher: no such setting; allowed: root, "]),
    ("recipies.lr=3", [f"recipies.lr: no such setting, nearest: recipe.lr; allowed: {TOP}"]),
    ("recipe.epoch=5", ["recipe.epoch: no such setting, nearest: recipe.epochs; allowed: recipe.epochs, "]),
    ("model.droput=0.1", ["model.droput: no such setting, nearest: model.dropout; allowed: model.name, model.dropout"]),
    ("compute.lr=0.1", ["compute.lr: no such setting, nearest: recipe.lr; allowed: compute.device, "]),
    ("recipe.lr.peak=3", ["recipe.lr.peak: no such setting, nearest: recipe.lr; allowed: root, "]),
    ("seed.x=3 seed=3", ["seed.x: no such setting, nearest: seed; allowed: root, "]),
    ("recipe..lr=3", ["recipe..lr: no such setting, nearest: recipe.lr; allowed: root, "]),
    (".=3", [".: no such setting; allowed: root, "]),
    ("Seed=3", ["Seed: no such setting, nearest: seed; allowed: root, "]),
    ([" seed=3"], [" seed: no such setting, nearest: seed; allowed: root, "]),
    # words
    ("--epochs 5", ["--epochs: not of the form key=value (--help lists the keys)", "5: not of the form"]),
    ("--seed=5", ["--seed: no such setting, nearest: seed; allowed: root, "]),
    ("-v", ["-v: not of the form key=value"]),
    ("mnist", ["mnist: not of the form key=value"]),
    ("=3", ["=3: not of the form key=value"]),
    ("=", ["=: not of the form key=value"]),
    ([""], [": not of the form key=value"]),
    (["seed=1\nseed=2"], [f"seed: given 1 seed=2, allowed: {SEEDS}"]),
    (["a\nb"], [r"a\nb: not of the form key=value"]),
    # values that are none
    ("seed=", ["seed: given '', which is no value; if none is meant, write null"]),
    ("config=", ["config: given '', which is no value"]),
    ("root= data_dir=", ["root: given '', which is no value", "data_dir: given '', which is no value"]),
    ("root=#3", ["root: given '#3', which is no value"]),
    (
        "recipe.lr=[1",
        ["recipe.lr: given '[1', which is not YAML: expected ',' or ']', but got '<stream end>' (line 1,"],
    ),
    ("recipe.lr=*x", ["recipe.lr: given '*x', which is not YAML: found undefined alias 'x' (line 1, column 1)"]),
    (["recipe.lr=!!int x"], ["recipe.lr: given '!!int x', which is not YAML: invalid literal for int()"]),
    ("recipe=!!python/name:os.system", ["recipe: given '!!python/name:os.system', which is not YAML: could not "]),
    ("seed=" + "9" * 5000, ["seed: given '999..., which is not YAML: Exceeds the limit"]),
    ("seed=" + "[" * 20_000, ["seed: given '[[[..., which is not YAML: it is nested too deeply"]),
    # types
    ("seed=-1", [f"seed: given -1, allowed: {SEEDS}"]),
    ("seed=4294967296", [f"seed: given 4294967296, allowed: {SEEDS}"]),
    ("seed=1.5", [f"seed: given 1.5, allowed: {SEEDS}"]),
    ("seed=3.0", [f"seed: given 3.0, allowed: {SEEDS}"]),
    ("seed=three", [f"seed: given three, allowed: {SEEDS}"]),
    ("seed=true", [f"seed: given true, allowed: {SEEDS}"]),
    ("seed=null", [f"seed: given null, allowed: {SEEDS}"]),
    ("seed=0-4", [f"seed: given 0-4, allowed: {SEEDS}"]),
    ("seed=010", [f"seed: given 010, allowed: {SEEDS}"]),
    ("seed=[0,1]", [f"seed: given [0, 1], allowed: {SEEDS}"]),
    (["seed={a: 1}"], ["seed: given {'a': 1}, allowed: whole number"]),
    (["seed=&a [*a]"], ["seed: given '&a [*a]', which is not YAML: it holds itself\n"]),
    ("recipe.lr=yes", ["recipe.lr: given yes, allowed: number, above 0"]),
    ("recipe.lr=true", ["recipe.lr: given true, allowed: number, above 0"]),
    ("recipe.lr=0,1", ["recipe.lr: given 0,1, allowed: number, above 0"]),
    ("recipe.decay_all=1", ["recipe.decay_all: given 1, allowed: true or false"]),
    ("recipe.optimizer=3", ["recipe.optimizer: given 3, allowed: sgd | adam | adamw"]),
    ("root=3", ["root: given 3, allowed: text or null; as text it is written '\"3\"'"]),
    ("root=[a]", ["root: given ['a'], allowed: text or null"]),
    ("force=maybe", ["force: given maybe, allowed: true or false"]),
    ("entry=train_vit", ["entry: given train_vit, allowed: train_cnn, nearest: train_cnn"]),
    # limits: at least, above, at most, below, not finite
    ("recipe.epochs=0", ["recipe.epochs: given 0, allowed: whole number, at least 1"]),
    ("recipe.lr=0", ["recipe.lr: given 0, allowed: number, above 0"]),
    ("augment.flip=1.5", ["augment.flip: given 1.5, allowed: number, 0 to 1"]),
    ("recipe.warmup=1", ["recipe.warmup: given 1, allowed: number, at least 0 and below 1"]),
    ("recipe.patience=0", ["recipe.patience: given 0, allowed: whole number, at least 1, or null"]),
    ("recipe.lr=.nan", ["recipe.lr: given NaN, allowed: number, above 0"]),
    ("recipe.lr=nan", ["recipe.lr: given nan, allowed: number, above 0"]),
    ("recipe.weight_decay=.inf", ["recipe.weight_decay: given Infinity, allowed: number, at least 0"]),
    ("recipe.clip_norm=1e999", ["recipe.clip_norm: given Infinity, allowed: number, above 0, or null"]),
    ("compute.device=gpu", ["compute.device: given gpu, allowed: auto | cpu | cuda | cuda:N"]),
    # presets and groups
    ("recipe=cnn_minst", [f"recipe: given cnn_minst, allowed: {RECIPES}, nearest: cnn_mnist\n"]),
    ("augment=lite", [f"augment: given lite, allowed: {AUGMENTS}, nearest: light\n"]),
    ("model=resnet19", ["model: given resnet19, allowed: adaptive_cnn, densenet121, ..., nearest: resnet18"]),
    ("model=vit_cifar", ["model: given vit_cifar, allowed: adaptive_cnn, densenet121, ..."]),
    ("model=timm/resnet26", ["model: given timm/resnet26, allowed: model.name=timm/resnet26"]),
    ("model.name=vit", ["model.name: given vit, allowed: adaptive_cnn | densenet121 | ..."]),
    (
        "model.name=timm/resnet26dd",
        ["model: given timm/resnet26dd, allowed: timm/NAME, ..., nearest: timm/resnet26d, "],
    ),
    ("model=densenet121 model.stem=small", ["model: stem=small is for resnets; allowed with densenet121: stem=own"]),
    (
        "model=resnet18 model.droput=0.1",
        ["model.droput: no such setting, nearest: model.dropout; allowed: "],
    ),
    ("model=resnet18 model.pretrained=1", ["model.pretrained: given 1, allowed: true or false"]),
    ("distill=kd_hard", ["distill: no such setting; allowed: root, "]),
    ("memory=tiny", [f"memory: given tiny, allowed: {names_of('memory')}\n"]),
    ("memory.precision=bf16", ["memory.precision: no such setting, nearest: recipe.precision; allowed: root, "]),
    (
        "data=cifar10_1_v6",
        [
            "data: cifar10_1_v6 holds no images to train on; to measure a run on it: "
            "python eval/evaluate.py run=DIR data=cifar10_1_v6\n"
        ],
    ),
    (
        "data=photos",
        [
            "data: photos holds no images to train on; to measure a run on it: "
            "python eval/evaluate.py run=DIR data=photos\n"
        ],
    ),
    *(
        (
            f"data={name} data.validation=published",
            [
                f"data.validation: given published, but {name} comes without validation images; allowed: split\n",
            ],
        )
        for name in ("digits", "flowers")
    ),
    ("recipe.select=f1", ["recipe.select: given f1, allowed: accuracy | auc | f1_score | loss"]),
    ("recipe=../recipe/cnn", [f"recipe: given ../recipe/cnn, allowed: {RECIPES}"]),
    ("recipe=5", [f"recipe: given 5, allowed: {RECIPES}"]),
    (["recipe={lr: 1}"], [f"recipe: given {{'lr': 1}}, allowed: {RECIPES}"]),
    ("augment=null", [f"augment: given null, allowed: {AUGMENTS}"]),
    ("compute=cpu", ["compute: a group of settings, allowed: compute.device, compute.threads, "]),
    (["compute={device: cpu}"], ["compute: a group of settings, allowed: compute.device, "]),
    ("log=off", ["log: a group of settings, allowed: log.progress, log.tensorboard, log.wandb"]),
    # data
    ("data=mnist", ["data: mnist is not prepared under data; run: python jobs/prepare.py data=mnist\n"]),
    (
        ["data=mnist", "data_dir=my data"],
        [
            "data: mnist is not prepared under my data; run: python jobs/prepare.py data=mnist data_dir='my data'\n",
        ],
    ),
    ("data=minst", [f"data: given minst, allowed: {PREPARED}, nearest: mnist\n"]),
    *(
        (f"data={name}", [f"data: given {name}, allowed: {PREPARED}, nearest: flowers\n"])
        for name in ("flwers", "FLOWERS", "data/flowers", "../flowers")
    ),
    ("data=flowers data_dir=elsewhere", [f"data: given flowers, allowed: {DATA}"]),
    ("data=broken", ["data: data/broken/manifest.json cannot be read as a manifest; prepare broken again\n"]),
    ("data=7", [f"data: given 7, allowed: {DATA}\n"]),
    ("data.name=Flowers", [f"data: given Flowers, allowed: {PREPARED}, nearest: flowers\n"]),
    # names that can be no folder of data sets
    *(
        (f"data={name}", [f"data: given {name}, allowed: {PREPARED}{NO_SUCH_SET}\n"])
        for name in ("/", ".", "..", "data")
    ),
    (['data="a\\0b"'], [rf"data: given a\x00b, allowed: {PREPARED}"]),
    ("data=" + "x" * 300, ["data: given xxx...xxx..., allowed: digits, "]),
    ("data=" + "x" * 5000, ["data: given xxx...xxx..., allowed: digits, "]),
    ("data=../data/flowers", ["data.name: given ../data/flowers, allowed: lower-case letters, digits, _ . -\n"]),
    # fingerprints
    *(
        (
            f"data={name} data.digest=0f3a",
            [f"data.digest: given 0f3a, allowed: null, because {name} is a published set\n"],
        )
        for name in ("digits", "stl10")
    ),
    (
        "data=flowers data.digest=77cc",
        ["data.digest: given 77cc, but the images packed under data/flowers have 0f3a\n"],
    ),
    # weights
    (
        "model=resnet18 model.weights=gone.pth",
        ["model.weights: gone.pth cannot be read: No such file or directory\n"],
    ),
    (
        "model=resnet18 model.weights=a.safetensors model.weights_digest=0f3a",
        [f"model.weights_digest: given 0f3a, but a.safetensors has {WEIGHTS_DIGEST}\n"],
    ),
    (
        "model=resnet18 model.weights=a.safetensors model.pretrained=false",
        ["model: weights=a.safetensors is not loaded; allowed with pretrained=false: weights=null\n"],
    ),
    (
        "model.weights=a.safetensors",
        [
            f"model.{field}: no such setting of this model; allowed: model.name, model.dropout\n"
            for field in ("weights", "pretrained", "weights_digest")
        ],
    ),
    # several data sets, and data sets that are no word
    (
        "data=mnist,digits",
        [
            "data: given ['mnist', 'digits'], allowed: one set; to train on several: "
            "python jobs/submit.py sweep=NAME data=mnist,digits\n"
        ],
    ),
    ("data=[mnist,digits]", ["data: given ['mnist', 'digits'], allowed: one set; to train on several: "]),
    ("data.name=[digits]", ["data.name: given ['digits'], allowed: lower-case letters, "]),
    (["data={name: digits}"], [f"data: given {{'name': 'digits'}}, allowed: {DATA}"]),
    # snapshots
    ("config=none.yaml", ["config: none.yaml: cannot be read: No such file or directory"]),
    ("config=data", ["config: data: cannot be read: Is a directory"]),
    ("config=/dev/zero", ["config: /dev/zero: cannot be read: it is not a regular file\n"]),
    ("config=large.yaml", ["config: large.yaml: cannot be read: it is larger than 1 MB\n"]),
    ("config=empty.yaml", ["config: empty.yaml: holds null, allowed: a mapping of settings"]),
    ("config=list.yaml", ["config: list.yaml: holds [{'seed': 3}], allowed: a mapping of settings"]),
    ("config=text.yaml", ["config: text.yaml: holds seed 3, allowed: a mapping of settings"]),
    ("config=binary.yaml", ["config: binary.yaml: not YAML: unacceptable character #x0000"]),
    ("config=latin1.yaml", ["config: latin1.yaml: cannot be read: 'utf-8' codec can't decode"]),
    ("config=unclosed.yaml", ["config: unclosed.yaml: not YAML: expected ',' or '}', but got '<stream end>' (line 2,"]),
    ("config=twice.yaml", ["config: twice.yaml: not YAML: seed is there twice (line 1, column 1)"]),
    ("config=other.yaml", ["config: other.yaml is a snapshot of distill_kd, allowed: one of train_cnn"]),
    (
        "config=keys.yaml",
        ["recipe.epoch: no such setting, nearest: recipe.epochs; allowed: ", "sed: no such setting, nearest: seed; "],
    ),
    (
        "config=values.yaml",
        [
            f"seed: given 3, allowed: {SEEDS}",
            "model: given adaptive_cnn, allowed: a mapping of name, dropout",
            "recipe.lr: given -1, allowed: number, above 0",
        ],
    ),
    ("config=scalar.yaml recipe.lr=3", ["recipe: given cnn, allowed: a mapping of epochs, batch_size, "]),
    (
        "config=foreign.yaml",
        ["data.digest: given 77cc, but the images packed under data/flowers have 0f3a\n"],
    ),
    ("config=result.json", ["config: result.json is no snapshot of a run's settings: it has run, val, test, ...\n"]),
    ("config=[a]", ["config: given ['a'], allowed: text or null"]),
    # settings that do not go together
    (
        "recipe.batch_size=4 recipe.accumulate=5",
        ["recipe: accumulate=5 parts cannot be made of batch_size=4 images\n"],
    ),
    ("recipe=cn recipe.batch_size=4 recipe.accumulate=5", [f"recipe: given cn, allowed: {RECIPES}, nearest: cnn\n"]),
    (
        "recipe.patience=5 data.val_fraction=0",
        [
            "recipe.patience=5 waits for a better validation score, but data.val_fraction=0 leaves no validation set; "
            "allowed: recipe.patience=null\n"
        ],
    ),
    # folders
    ("root=a-file", ["root: a-file is not a folder"]),
    ("root=a-file/runs", ["root: a-file/runs cannot be used: Not a directory"]),
    (f"root={'x' * 300}", ["root: xxx... cannot be used: File name too long"]),
    (['root="a\\0b"'], [r"root: a\x00b cannot be used: embedded null byte"]),
    ("data_dir=a-file", ["data_dir: a-file is not a folder"]),
    ("data_dir=a-file/data", ["data_dir: a-file/data cannot be used: Not a directory"]),
    ("root=a-file dry_run=true", ["root: a-file is not a folder"]),
    # many at once
    (
        "sed=3 recipe.lr=-1 model.dropout=2 augment=lite data=mnist recipe.epochs=[ go root=a-file",
        [
            "sed: no such setting",
            "recipe.epochs: given '['",
            "go: not of the form",
            "root: a-file is not a folder",
            "augment: given lite",
            "data: mnist is not prepared",
            "model.dropout: given 2",
            "recipe.lr: given -1",
        ],
    ),
    ("config=none.yaml seed=-1 a b", ["a: not", "b: not", "config: none.yaml: cannot be read", "seed: given -1"]),
]

PREPARING: list[tuple[str | list[str], list[str]]] = [
    ("", [f"data: missing; {', '.join(list(DATASETS)[:4])}, "]),
    ("data=minst", [f"data: given minst, allowed: {PREPARABLE}, nearest: mnist\n"]),
    ("data=mnist source=nowhere", ["source: nowhere is not a folder; expected one that holds train-images-idx3-ubyte"]),
    ("data=mnist source=a-file", ["source: a-file is not a folder; "]),
    ("data=mnist sorce=x", ["sorce: no such setting, nearest: source; allowed: data, source, "]),
    ("data=mnist data.name=x", ["data.name: no such setting, nearest: name; allowed: data, source, "]),
    ("data=mnist verify=yes", ["verify: given yes, allowed: true or false"]),
    ("data=[", ["data: given '[', which is not YAML: "]),
    ("data=mnist name=", ["name: given '', which is no value"]),
    (
        "data=image_folder name=2024 source=data size=8",
        ["name: given 2024, allowed: text or null; as text it is written"],
    ),
    ("data=image_folder name=x source=data size=0", ["size: given 0, allowed: whole number, 1 to 4096, or null"]),
    ("data=digits data_dir=a-file", ["data_dir: a-file "]),
    ("data=digits data_dir=a-file/data", ["data_dir: a-file/data cannot be made: Not a directory"]),
    ("data=mnist source=data", ["source: ...train-images-idx3-ubyte.gz", "source: ", "source: ", "source: "]),
]


def contents() -> dict[str, bytes | None]:
    """Everything in the folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


def says(line: str, expected: str) -> bool:
    """Tell whether the line begins with the text before the first "..." and holds the other parts in their order."""
    line += "\n"
    first, *others = expected.split("...")
    if not line.startswith(first):
        return False
    place = len(first)
    for part in others:
        place = line.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True


def test_the_comparison_can_fail() -> None:
    assert says("a: given 3, allowed: x, y, nearest: y", "a: given 3,..., nearest: y")
    assert not says("b: a: given 3", "a: given 3")
    assert not says("a: y, x", "a:...x...y")
    assert says("a: given 3", "a: given 3\n")
    assert not says("a: given 34", "a: given 3\n")


def check_refusal(
    main: Callable[[list[str]], int], words: str | list[str], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    code = main(words.split() if isinstance(words, str) else words)
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    found = err.splitlines()
    assert len(found) == len(lines), err
    for line, expected in zip(found, lines, strict=True):
        assert says(line, expected), f"{line!r} is not {expected!r}"
    assert contents() == before


def name_of(case: tuple[str | list[str], list[str]]) -> str:
    words = case[0] if isinstance(case[0], str) else " ".join(case[0])
    return words[:60].replace("\n", "|").replace("\0", "0")


@pytest.mark.parametrize(("words", "lines"), TRAINING, ids=map(name_of, TRAINING))
def test_training_refuses(words: str | list[str], lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    check_refusal(train_cnn, words, lines, capsys)


@pytest.mark.parametrize(("words", "lines"), PREPARING, ids=map(name_of, PREPARING))
def test_preparing_refuses(words: str | list[str], lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    check_refusal(prepare, words, lines, capsys)


def test_preparing_refuses_files_that_are_not_the_publishers(capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            Path(f"{part}-{kind}-ubyte.gz").write_bytes(b"something else")
    lines = ["a file...train-images-idx3-ubyte.gz...", "...train-labels", "...t10k-images", "...t10k-labels"]
    lines = [line.removeprefix("a file") for line in lines]
    check_refusal(prepare, "data=mnist source=.", lines, capsys)


# --- what only torch can tell -----------------------------------------------------------------------------------


def test_a_gpu_that_is_not_there_is_refused_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    gpus = torch.cuda.device_count()
    before = contents()
    assert train_cnn(["compute.device=cuda:999"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"compute.device: given cuda:999, but torch finds {gpus} GPUs here; allowed: ")
    assert contents() == before


def test_a_forced_run_that_is_refused_behind_the_door_keeps_its_old_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_cnn(["dry_run=true"]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("# folder: "))
    folder.mkdir(parents=True)
    for name in ("config.yaml", "history.csv"):
        (folder / name).write_text("precious\n")
    assert train_cnn(["force=true", "compute.device=cuda:999"]) == 2
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {path.read_text() for path in folder.glob("*.*")} == {"precious\n"}


def test_a_refusal_behind_the_door_leaves_a_folder_with_work_in_it_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """The same run, tried with a GPU that is not there after it was interrupted elsewhere."""
    assert train_cnn(["dry_run=true"]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("# folder: "))
    folder.mkdir(parents=True)
    (folder / "history.csv").write_text("epoch\n1\n")
    assert train_cnn(["compute.device=cuda:999"]) == 2
    assert (folder / "history.csv").read_text() == "epoch\n1\n"


# --- as real processes ------------------------------------------------------------------------------------------

PROCESSES: list[tuple[list[str | bytes], str]] = [
    (["train/train_cnn.py", "sed=3"], "sed: no such setting, nearest: seed; allowed: root, "),
    (["train/train_cnn.py", "recipe.optimizer=ädäm\x1b[31m"], "recipe.optimizer: given 'ädäm\\x1b[31m', which is not"),
    (["train/train_cnn.py", b"seed=\xff"], "seed: given '\\udcff', which is not YAML: "),
    (["train/train_cnn.py", "root=a-file"], "root: a-file is not a folder"),
    (["jobs/prepare.py", "data=minst"], f"data: given minst, allowed: {PREPARABLE}, nearest: mnist\n"),
]


def test_scripts_refuse_without_a_traceback() -> None:
    """All at once, because each spends its time on starting; in a plain locale, which must not break the message."""
    before = contents()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"}
    started = [
        subprocess.Popen(
            [sys.executable, REPOSITORY / str(script), *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for (script, *words), _ in PROCESSES
    ]
    for process, (_, expected) in zip(started, PROCESSES, strict=True):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, "")
        (line,) = err.splitlines()
        assert says(line, expected)
    assert contents() == before
