"""Pixels for training and evaluation, beside PIL and torchvision's transforms."""

import io
from collections.abc import Callable, Iterator

import numpy as np
import PIL.Image
import torch
from pandas import DataFrame
from torchvision import transforms
from torchvision.transforms import functional as F

from benchmarks import comparing, limits
from benchmarks.comparing import Row
from dml import plugins
from dml.augmentation import centre_crops, random_views, train_batch
from dml.images import PackedImages, decode, resize_shorter_side
from dml.loading import Loader
from dml.method import Method
from dml.model import Model
from dml.optimizers import RMSprop
from dml.protocol import Protocol
from dml.sampling import Batches

TITLE = "Pixels"
ABOUT = """Seconds for an image of 227 x 227 pixels as the protocol of the paper has it, on one core. The peer decodes a
JPEG with PIL and applies torchvision's transforms; ours cuts uint8 crops from images that were decoded and resized
once, and leaves the last transforms, to floats and minus the mean, to the model. The images are synthetic, smooth with
noise: JPEGs of 500 x 400 pixels and about 70 kB. The limit is a copy of the crop's bytes from memory to memory; some of
them are in the cache here. Training steps are measured with such crops and, as their peer, with one batch that lies on
the device already: 0.95 times its speed is 5 per cent lost."""

IMAGES, BATCH = 64, 32
LARGE, SMALL = 500, 400
"""Sides of the images, pixels; every other stands upright."""
PROTOCOLS = {
    "cpu": Protocol(trunk="squeezenet1_0", batch_size=BATCH),
    "cuda": Protocol(trunk="bn_inception", batch_size=BATCH),
}
OURS_OVER_PEER = 10
"""So many batches of ours are timed for one of the peer, that both take long enough."""
GPU_WAYS, GPU_STEPS = ("resident", "ahead"), 50
"""So many batches or steps are a repetition."""
PEER = "PIL and torchvision, 1 process"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def measure(repetitions: int) -> DataFrame:
    """A row for each kind of crops and of training steps."""
    torch.set_num_threads(1)
    jpegs = [picture(np.random.default_rng(n), upright=n % 2 == 1) for n in range(IMAGES)]
    images = packed(jpegs)
    return comparing.table([*crops(jpegs, images, repetitions), *steps(images, repetitions)])


draw = comparing.draw


def picture(rng: np.random.Generator, upright: bool) -> bytes:
    """A JPEG, smooth with noise."""
    size = (SMALL, LARGE) if upright else (LARGE, SMALL)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, PIL.Image.Resampling.BICUBIC))
    pixels = np.clip(smooth + rng.normal(0, 20, (*smooth.shape[:2], 1)), 0, 255).astype(np.uint8)
    data = io.BytesIO()
    PIL.Image.fromarray(pixels).save(data, "JPEG", quality=75)
    return data.getvalue()


def packed(jpegs: list[bytes]) -> PackedImages:
    """What the pipeline would write to its files, in memory; four images a class."""
    resized = [np.asarray(resize_shorter_side(decode(jpeg, "a picture"), 256)) for jpeg in jpegs]
    heights, widths = np.array([pixels.shape[:2] for pixels in resized]).T
    lengths, numbers = heights * widths * 3, np.arange(len(jpegs))
    flat = np.concatenate([pixels.ravel() for pixels in resized])
    return PackedImages(flat, np.cumsum(lengths) - lengths, heights, widths, numbers // 4, numbers.astype(str), "")


def crops(jpegs: list[bytes], images: PackedImages, repetitions: int) -> Iterator[Row]:
    """Without a network."""
    protocol, batch = PROTOCOLS["cpu"], np.arange(BATCH)
    size, views = protocol.crop_size, (protocol.crop_scale, protocol.crop_ratio, protocol.flip)
    rest = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    random_crop = transforms.RandomResizedCrop(size, tuple(protocol.crop_scale), tuple(protocol.crop_ratio))
    to_train = transforms.Compose(
        [transforms.Resize(protocol.resize), random_crop, transforms.RandomHorizontalFlip(), *rest]
    )
    to_evaluate = transforms.Compose([transforms.Resize(protocol.resize), transforms.CenterCrop(size), *rest])
    rng = np.random.default_rng(0)
    copied = 2 * size**2 * 3 / limits.bandwidth(1)
    kilobytes = sum(map(len, jpegs)) / len(jpegs) / 1000

    def peer(transform: Callable) -> Callable[[], object]:
        return lambda: torch.stack([transform(opened(jpeg)) for jpeg in jpegs[:BATCH]])

    def row(case: str, ours: Callable[[], object], transform: Callable, difference: int) -> Row:
        sides = {"ours": lambda: repeatedly(ours, OURS_OVER_PEER), "peer": peer(transform)}
        taken = comparing.seconds(sides, repetitions)
        return Row(
            case, "cpu, 1 thread", taken["ours"] / OURS_OVER_PEER / BATCH, taken["peer"] / BATCH, PEER, copied,
            "a copy of the crop", goal=10, repetitions=repetitions,
            note=f"JPEGs of {kilobytes:.0f} kB; largest difference for the same crop: {difference} of 255",
        )  # fmt: skip

    def random_batch() -> torch.Tensor:
        return train_batch(images, batch, size, *views, rng)

    yield row("training crops", random_batch, to_train, training_difference(jpegs, images, protocol))
    yield row(
        "evaluation crops", lambda: centre_crops(images, batch, size), to_evaluate,
        evaluation_difference(jpegs, images, protocol),
    )  # fmt: skip
    if torch.cuda.is_available():
        for way in GPU_WAYS:
            with loader(images, "cuda", way) as batches:
                sides = {"ours": lambda: repeatedly(lambda: next(batches), GPU_STEPS), "peer": peer(to_train)}
                taken = comparing.seconds(sides, repetitions)
            yield Row(
                f"training crops, {way}", "cuda", taken["ours"] / GPU_STEPS / BATCH, taken["peer"] / BATCH, PEER,
                2 * size**2 * 3 / limits.gpu_bandwidth(), "a copy of the crop", goal=10, repetitions=repetitions,
            )  # fmt: skip


def steps(images: PackedImages, repetitions: int) -> Iterator[Row]:
    """Training steps, whose data must cost next to nothing."""
    yield step_on_cpu(images, repetitions)
    if torch.cuda.is_available():
        yield from (step_on_gpu(images, way, repetitions) for way in GPU_WAYS)


def step_on_cpu(images: PackedImages, repetitions: int) -> Row:
    """Step and batch follow one another. Their sum: a batch takes less than by what one step differs from the next."""
    batches, step = loader(images, "cpu", "direct"), training_step("cpu")
    given = next(batches)
    sides = {"step": lambda: step(*given), "batch": lambda: repeatedly(lambda: next(batches), OURS_OVER_PEER)}
    taken = comparing.seconds(sides, repetitions)
    batch = taken["batch"] / OURS_OVER_PEER
    note = f"the sum of a step and of a batch, {1000 * batch:.2g} ms, measured one by one"
    return step_row("cpu", "direct", taken["step"] + batch, taken["step"], repetitions, note)


def step_on_gpu(images: PackedImages, way: str, repetitions: int) -> Row:
    """Many steps, with batches of the loader and with one that is there."""
    with loader(images, "cuda", way) as batches:
        given, step = next(batches), training_step("cuda")
        sides = {
            "real": lambda: repeatedly(lambda: step(*next(batches)), GPU_STEPS),
            "given": lambda: repeatedly(lambda: step(*given), GPU_STEPS),
        }
        taken = comparing.seconds(sides, repetitions)
    return step_row("cuda", way, taken["real"] / GPU_STEPS, taken["given"] / GPU_STEPS, repetitions)


def step_row(device: str, way: str, ours: float, peer: float, repetitions: int, note: str = "") -> Row:
    """Seconds of a step with real and with given data as a row for one image."""
    return Row(
        f"step of {PROTOCOLS[device].trunk}, data {way}", f"{device}, 1 thread", ours / BATCH, peer / BATCH,
        "a batch that is there", goal=0.95, repetitions=repetitions, note=note,
    )  # fmt: skip


def repeatedly(work: Callable[[], object], number: int) -> None:
    """Do it so often, and wait for the GPU, if there is one."""
    for _ in range(number):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def loader(images: PackedImages, device: str, way: str) -> Loader:
    """Batches as in a training."""
    protocol = PROTOCOLS[device]
    order = Batches(images.labels, protocol.batch_size, 4, np.random.default_rng(0))
    return Loader(images, images.labels, order, protocol, np.random.default_rng(1), device, way)


def training_step(device: str) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Forward, loss, backward and the optimiser, with random weights."""
    model = Model(PROTOCOLS[device], has_head=True).to(device).train()
    method = plugins.load_class("methods", "contrastive", Method)(IMAGES, 128, pos_margin=0.2, neg_margin=1.0)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = RMSprop(trained, 1e-6, 0.9, 0.0)

    def step(pixels: torch.Tensor, labels: torch.Tensor) -> None:
        loss = method.to(device).objective(model(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def training_difference(jpegs: list[bytes], images: PackedImages, protocol: Protocol) -> int:
    """The largest, of any pixel of all images, to torchvision's crop of the same box."""
    views, every = (protocol.crop_scale, protocol.crop_ratio, 0.0), np.arange(len(images))
    ours = train_batch(images, every, protocol.crop_size, *views, np.random.default_rng(2))
    boxes, _ = random_views(images, every, *views, np.random.default_rng(2))
    size, resize = [protocol.crop_size] * 2, transforms.Resize(protocol.resize)
    pictures = [resize(opened(jpeg)) for jpeg in jpegs]
    return largest(ours, [F.resized_crop(p, *map(int, box), size) for p, box in zip(pictures, boxes, strict=True)])


def evaluation_difference(jpegs: list[bytes], images: PackedImages, protocol: Protocol) -> int:
    """The largest, of any pixel of all images, to torchvision's centre crop."""
    reference = transforms.Compose([transforms.Resize(protocol.resize), transforms.CenterCrop(protocol.crop_size)])
    ours = centre_crops(images, np.arange(len(images)), protocol.crop_size)
    return largest(ours, [reference(opened(jpeg)) for jpeg in jpegs])


def largest(ours: torch.Tensor, pictures: list[PIL.Image.Image]) -> int:
    """Difference of any pixel."""
    theirs = np.stack([np.asarray(picture) for picture in pictures]).astype(int)
    return int(np.abs(ours.permute(0, 2, 3, 1).numpy() - theirs).max())


def opened(jpeg: bytes) -> PIL.Image.Image:
    """As torchvision's data sets open their files."""
    return PIL.Image.open(io.BytesIO(jpeg)).convert("RGB")
