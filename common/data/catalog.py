"""The published data sets: what each is, where its files are, and which function reads them.

A further set is one entry in DATASETS and a preset in common/presets/data/. If its format is new too, it needs a
reader in formats.py: a function of {file name: path} that returns {"train": Part, "test": Part}; everything else
(finding, downloading, checksums, packing, verifying) is the same for all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.data import formats
from common.data.packing import Part
from common.data.sources import File


@dataclass(frozen=True)
class Published:
    title: str
    classes: tuple[str, ...]
    read: Callable[[Mapping[str, Path]], dict[str, Part]]
    url: str  # the page that describes it
    licence: str
    citation: str
    files: tuple[File, ...] = ()  # none: the data come with an installed package
    mirrors: tuple[str, ...] = ()  # folders that hold the files, tried in this order
    task: str = "multi-class"
    # Bright objects on black, where single images from elsewhere mostly come the other way round (ink on paper,
    # products on white): such an image is inverted before a model sees it, see outside.py.
    dark_background: bool = False


def _idx(name: str, size: int, md5: str, unpacked_md5: str) -> File:
    """Checksums of the .gz as the publishers and torchvision list them; those of the content were taken from it."""
    return File(f"{name}.gz", md5, size, unpacked=(File(name, unpacked_md5),))


FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)  # fmt: skip

MNIST_FILES = (
    _idx("train-images-idx3-ubyte", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
    _idx("train-labels-idx1-ubyte", 28_881, "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
    _idx("t10k-images-idx3-ubyte", 1_648_877, "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
    _idx("t10k-labels-idx1-ubyte", 4_542, "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
)
FASHION_FILES = (
    _idx("train-images-idx3-ubyte", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    _idx("train-labels-idx1-ubyte", 29_515, "25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
    _idx("t10k-images-idx3-ubyte", 4_422_102, "bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
    _idx("t10k-labels-idx1-ubyte", 5_148, "bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
)

DATASETS: dict[str, Published] = {
    "digits": Published(
        title="Optical Recognition of Handwritten Digits (the 1797 images in scikit-learn)",
        classes=tuple("0123456789"),
        read=formats.read_digits,
        url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        licence="CC BY 4.0",
        citation="E. Alpaydin and C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning "
        "Repository, 1998. doi:10.24432/C50P49",
        dark_background=True,
    ),
    "mnist": Published(
        title="MNIST",
        classes=tuple("0123456789"),
        read=formats.read_mnist,
        url="http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0",
        citation="Y. LeCun, L. Bottou, Y. Bengio and P. Haffner. Gradient-based learning applied to document "
        "recognition. Proceedings of the IEEE 86(11), 1998.",
        files=MNIST_FILES,
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",  # the publisher's own, often unreachable
        ),
        dark_background=True,
    ),
    "fashion_mnist": Published(
        title="Fashion-MNIST",
        classes=FASHION_CLASSES,
        read=formats.read_mnist,
        url="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
        citation="H. Xiao, K. Rasul and R. Vollgraf. Fashion-MNIST: a novel image dataset for benchmarking machine "
        "learning algorithms. arXiv:1708.07747, 2017.",
        files=FASHION_FILES,
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        dark_background=True,  # the authors negated product photographs taken on a light ground
    ),
    "cifar10": Published(
        title="CIFAR-10",
        classes=CIFAR10_CLASSES,
        read=formats.read_cifar10,
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated by its authors (research use)",
        citation="A. Krizhevsky. Learning multiple layers of features from tiny images. Technical report, University "
        "of Toronto, 2009.",
        files=(
            File(
                "cifar-10-python.tar.gz",
                "c58f30108f718f92721af3b95e74349a",
                170_498_071,
                unpacked=(
                    File("data_batch_1", "c99cafc152244af753f735de768cd75f"),
                    File("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                    File("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                    File("data_batch_4", "634d18415352ddfa80567beed471001a"),
                    File("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
                    File("test_batch", "40351d587109b95175f43aff81a1287e"),
                ),
            ),
        ),
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
    ),
    "cifar100": Published(
        title="CIFAR-100 (fine classes)",
        classes=CIFAR100_CLASSES,
        read=formats.read_cifar100,
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated by its authors (research use)",
        citation="A. Krizhevsky. Learning multiple layers of features from tiny images. Technical report, University "
        "of Toronto, 2009.",
        files=(
            File(
                "cifar-100-python.tar.gz",
                "eb9058c3a382ffc7106e4002c42a8d85",
                169_001_437,
                unpacked=(
                    File("train", "16019d7e3df5f24257cddd939b257f8d"),
                    File("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
                ),
            ),
        ),
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
    ),
}
