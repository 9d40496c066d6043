"""The published data sets: what each is, where its files are, and which function reads them.

A further set is one entry in DATASETS. If its format is new too, it needs a reader beside those of formats.py: a
function of {file name: path} that returns {part name: Part}. All else (finding, downloading, checksums, packing,
verifying) is the same for every set.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.data.packing import Part, Task
from common.data.publishers import formats
from common.data.publishers.checksums import File
from common.data.publishers.medmnist import MEDMNIST, RECORD, SIZES, read_medmnist, set_name
from common.data.publishers.shifted_cifar import CIFAR10_C_ARCHIVE, read_cifar10_1, read_cifar10_c
from common.data.publishers.stl10 import CLASSES as STL10_CLASSES
from common.data.publishers.stl10 import read_stl10
from common.data.publishers.tiny_imagenet import FOLDER as TINY_IMAGENET
from common.data.publishers.tiny_imagenet import read_class_names, read_tiny_imagenet


@dataclass(frozen=True)
class Published:
    title: str
    classes: tuple[str, ...]  # none: they stand in the files, for read_classes
    read: Callable[[Mapping[str, Path]], dict[str, Part]]
    url: str  # the page that describes it
    licence: str
    citation: str
    files: tuple[File, ...] = ()  # none: the data come with an installed package
    mirrors: tuple[str, ...] = ()  # folders that hold the files, tried in this order
    task: Task = "multi-class"
    family: str = ""  # whose defaults it takes where it has none of its own
    validation: bool = False  # the publisher set validation images apart: a part "val"
    evaluation_only: bool = False  # no part "train": for models trained on something else
    read_classes: Callable[[Mapping[str, Path]], tuple[str, ...]] | None = None
    # Bright objects on black, where single images from elsewhere mostly come the other way round (ink on paper,
    # products on white): such an image is inverted before a model sees it, see outside.py.
    dark_background: bool = False


def _idx(name: str, size: int, md5: str, unpacked_md5: str) -> File:
    """Describe an idx file: publishers and torchvision list the checksum of its .gz; the other was taken from that."""
    return File(f"{name}.gz", md5, size, unpacked=(File(name, unpacked_md5),))


def _npy(name: str, size: int, sha256: str) -> File:
    return File(f"{name}.npy", size=size, sha256=sha256)


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

# Size and SHA-256 as TensorFlow Datasets lists them (url_checksums/cifar10_1.txt); the publisher lists none.
CIFAR10_1_FILES = {
    "v4": (
        _npy("cifar10.1_v4_data", 6_208_640, "5aaedc268df8f4cffca2ac0cf9e608ae1897a8cddb630c7a850a2ea8f6558e75"),
        _npy("cifar10.1_v4_labels", 8_212, "1f9544300ded199539b6662364ce7fe6c2e1ea9f87408f06db4b1a6184cffb18"),
    ),
    "v6": (
        _npy("cifar10.1_v6_data", 6_144_128, "2997188e5816f5bd545dc77771b6227828c28146049fcecf3fa10775474cacc6"),
        _npy("cifar10.1_v6_labels", 8_128, "ae40beda001693674edc94d925ee8268cfe68905f8f9aff800c8dcdfcd6c9448"),
    ),
}
# Of the archive as Zenodo lists it; of what it holds as several libraries do alike, TorchUncertainty for one.
CIFAR10_C_MD5 = {
    "gaussian_noise": "ecaf8b9a2399ffeda7680934c33405fd",
    "shot_noise": "3a7239bb118894f013d9bf1984be7f11",
    "impulse_noise": "2090e01c83519ec51427e65116af6b1a",
    "defocus_blur": "7d1322666342a0702b1957e92f6254bc",
    "glass_blur": "7361fb4019269e02dbf6925f083e8629",
    "motion_blur": "fffa5f852ff7ad299cfe8a7643f090f4",
    "zoom_blur": "6ea8e63f1c5cdee1517533840641641b",
    "snow": "bb238de8555123da9c282dea23bd6e55",
    "frost": "31f6ab3bce1d9934abfb0cc13656f141",
    "fog": "7b397314b5670f825465fbcd1f6e9ccd",
    "brightness": "0a81ef75e0b523c3383219c330a85d48",
    "contrast": "3c8262171c51307f916c30a3308235a8",
    "elastic_transform": "9421657c6cd452429cf6ce96cc412b5f",
    "pixelate": "0f14f7e2db14288304e1de10df16832f",
    "jpeg_compression": "2b9cc4c864e0193bb64db8d7728f8187",
    "speckle_noise": "ef00b87611792b00df09c0b0237a1e30",
    "gaussian_blur": "c33370155bc9b055fb4a89113d3c559d",
    "spatter": "8a5a3903a7f8f65b59501a6093b4311e",
    "saturate": "1cfae0964219c5102abbb883e538cc56",
    "labels": "c439b113295ed5254878798ffe28fd54",
}


def _cifar10_1(version: str, how: str) -> Published:
    return Published(
        title=f"CIFAR-10.1 {version} ({how})",
        classes=CIFAR10_CLASSES,
        read=partial(read_cifar10_1, version=version),
        url="https://github.com/modestyachts/CIFAR-10.1",
        licence="MIT",
        citation="B. Recht, R. Roelofs, L. Schmidt and V. Shankar. Do CIFAR-10 classifiers generalize to CIFAR-10? "
        "arXiv:1806.00451, 2018. And: A. Torralba, R. Fergus and W. T. Freeman. 80 million tiny images. IEEE "
        "Transactions on Pattern Analysis and Machine Intelligence 30(11), 2008.",
        files=CIFAR10_1_FILES[version],
        mirrors=(
            "https://github.com/modestyachts/CIFAR-10.1/raw/master/datasets/",
            "https://raw.githubusercontent.com/modestyachts/CIFAR-10.1/master/datasets/",
        ),
        # It is a second test set for models trained on CIFAR-10, and too small to train on.
        evaluation_only=True,
    )


def _medmnist(name: str, size: int) -> Published:
    medical = MEDMNIST[name]
    return Published(
        title=f"{medical.title}, {size} pixels",
        classes=medical.classes,
        read=partial(read_medmnist, medical=medical, size=size),
        url="https://medmnist.com",
        licence=medical.licence,
        citation="J. Yang, R. Shi, D. Wei, Z. Liu, L. Zhao, B. Ke, H. Pfister and B. Ni. MedMNIST v2: a large-scale "
        "lightweight benchmark for 2D and 3D biomedical image classification. Scientific Data 10, 2023. And the "
        "source of the images, see url",
        files=(File(f"{set_name(name, size)}.npz", medical.md5[SIZES.index(size)]),),
        mirrors=(RECORD,),
        task=medical.task,
        # Small images and large ones have defaults of their own.
        family="medmnist" if size == SIZES[0] else "medmnist_large",
        validation=True,
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
    "cifar10_1_v4": _cifar10_1("v4", "2,021 images"),
    "cifar10_1_v6": _cifar10_1("v6", "2,000 images, 200 of each class"),
    "cifar10_c": Published(
        title="CIFAR-10-C (19 corruptions of CIFAR-10's test images at 5 severities)",
        classes=CIFAR10_CLASSES,
        read=read_cifar10_c,
        url="https://zenodo.org/records/2535967",
        licence="CC BY 4.0",
        citation="D. Hendrycks and T. Dietterich. Benchmarking neural network robustness to common corruptions and "
        "perturbations. International Conference on Learning Representations, 2019.",
        files=(
            File(
                CIFAR10_C_ARCHIVE,
                "56bf5dcef84df0e2308c6dcbcbbd8499",
                2_918_471_680,
                unpacked=tuple(File(f"{name}.npy", md5) for name, md5 in CIFAR10_C_MD5.items()),
            ),
        ),
        mirrors=("https://zenodo.org/records/2535967/files/",),
        evaluation_only=True,
    ),
    "tiny_imagenet": Published(
        title="Tiny ImageNet (the published validation images are the test set: the labels of its own are secret)",
        classes=(),
        read=read_tiny_imagenet,
        url="https://www.kaggle.com/c/tiny-imagenet",
        licence="none stated by its authors (ImageNet's terms: non-commercial research and education)",
        citation="Y. Le and X. Yang. Tiny ImageNet visual recognition challenge. Stanford CS 231N, 2015.",
        # The publisher lists no checksum. TensorFlow Datasets lists the size and a SHA-256 of its own; Zenodo's copy
        # of the same size (record 10720917) and Avalanche this MD5.
        files=(File(f"{TINY_IMAGENET}.zip", "90528d7ca1a48142e341f4ef8d21d0de", 248_100_043, folder=TINY_IMAGENET),),
        mirrors=("http://cs231n.stanford.edu/", "https://zenodo.org/records/10720917/files/"),
        read_classes=read_class_names,
    ),
    "stl10": Published(
        title="STL-10 (its labelled images)",
        classes=STL10_CLASSES,
        read=read_stl10,
        url="https://cs.stanford.edu/~acoates/stl10/",
        licence="none stated by its authors (images from ImageNet: research use)",
        citation="A. Coates, H. Lee and A. Y. Ng. An analysis of single layer networks in unsupervised feature "
        "learning. AISTATS, 2011.",
        files=(
            File(
                "stl10_binary.tar.gz",
                "91f7769df0f17e558f3565bffb0c7dfb",
                2_640_397_119,
                unpacked=(
                    File("train_X.bin", "918c2871b30a85fa023e0c44e0bee87f"),
                    File("train_y.bin", "5a34089d4802c674881badbb80307741"),
                    File("test_X.bin", "7f263ba9f9e0b06b93213547f721ac82"),
                    File("test_y.bin", "36f9794fa4beb8a2c72628de14fa638e"),
                ),
            ),
        ),
        mirrors=("http://ai.stanford.edu/~acoates/stl10/",),
    ),
    **{set_name(name, size): _medmnist(name, size) for name in MEDMNIST for size in SIZES},
}
