"""Training of the convolutional network: each image is seen a little moved, turned and bent."""

import copy
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from common.arrays import SIDE, Split
from common.networks import FiveLooks, to_input
from common.params import ConvolutionalParams

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, interpolate
from tqdm import tqdm


def train(
    classifier: FiveLooks, split: Split, params: ConvolutionalParams, device: torch.device
) -> Iterator[tuple[float, float]]:
    """Train the network of `classifier` in place; after each epoch yield its loss, nats, and accuracy.

    Both are means over the distorted images that it was trained on, of one look at each. Each of the
    `params.threads` takes a part of each batch.

    The learning rate rises linearly from 0 to `params.learning_rate` over the share `params.warmup`
    of the steps, and falls linearly to 0 over the others. An incomplete last batch of an epoch is
    left out, unless it is the only one, since batch normalisation wants enough images.
    """
    # torch's own threads would wait for one another in each of hundreds of small operations, and
    # where another process takes a core away, for long. Ours do so once a step.
    torch.set_num_threads(1)
    network = classifier.network.to(memory_format=torch.channels_last)
    replicas = [network, *(replica_of(network) for _ in range(1, params.threads))]
    matrices = [weights for weights in network.parameters() if weights.ndim > 1]
    others = [weights for weights in network.parameters() if weights.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}],
        lr=params.learning_rate,
        weight_decay=params.weight_decay,
        fused=True,
    )
    batches = max(1, len(split) // params.batch_size)
    rise = params.warmup * params.epochs * batches
    fall = params.epochs * batches - rise
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / max(rise, 1), (rise + fall - step) / fall)
    )
    shuffle = torch.Generator().manual_seed(params.seed)
    noise = torch.Generator(device).manual_seed(params.seed)

    def run(epoch: int, pool: ThreadPoolExecutor) -> list[float]:
        order = torch.randperm(len(split), generator=shuffle)
        total = torch.zeros(2, device=device)
        # disable=None: a bar on a terminal only
        for indices in tqdm(
            order.split(params.batch_size)[:batches], f"epoch {epoch}", disable=None
        ):
            images, labels = (part.to(device) for part in split.take(indices))
            moves = draw_maps(len(labels), params, noise), draw_bends(len(labels), params, noise)
            shares = (part.tensor_split(params.threads) for part in (images, *moves, labels))
            work = partial(backward, len(labels))
            total += sum(pool.map(work, replicas, zip(*shares, strict=True)))
            merge_gradients(replicas)
            optimizer.step()
            schedule.step()
        return (total / batches).tolist()

    flush = partial(torch.set_flush_denormal, True)  # is set for each thread
    for epoch in range(1, params.epochs + 1):
        for replica in replicas:
            replica.train()
        with ThreadPoolExecutor(params.threads, initializer=flush) as pool:
            loss, accuracy = run(epoch, pool)
        yield loss, accuracy


def replica_of(network: nn.Module) -> nn.Module:
    """Return a copy with the same weights in the same memory, and gradients of its own.

    The running statistics of its batch normalisation are its own too, and are not used.
    """
    replica = copy.deepcopy(network)
    for copied, weights in zip(replica.parameters(), network.parameters(), strict=True):
        copied.data = weights.data
    return replica


def merge_gradients(replicas: list[nn.Module]) -> None:
    """Add the gradients of a network's replicas to those of the first, which is the network."""
    for parameter, *others in zip(*(one.parameters() for one in replicas), strict=True):
        for other in others:
            parameter.grad += other.grad


def backward(size: int, network: nn.Module, part: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Set the gradient of a part of a batch of `size` images.

    Return the part's share of the batch's mean loss and accuracy, float32 [2].
    The part is images uint8 [n, 28, 28], maps and bends as drawn below, labels int64 [n].
    """
    images, maps, bends, labels = part
    network.zero_grad()
    logits = network(distort(to_input(images), maps, bends))
    loss = cross_entropy(logits, labels, reduction="sum") / size
    loss.backward()
    right = (logits.argmax(dim=1) == labels).sum() / size
    return torch.stack([loss.detach(), right])


def draw_maps(n: int, params: ConvolutionalParams, generator: torch.Generator) -> Tensor:
    """Draw an affine map for each of n images, float32 [n, 2, 3], as `affine_grid` takes them.

    They turn by up to `params.rotation` degrees, scale each axis by 1 ± `params.scaling`, shear by up
    to `params.shear` and shift each axis by up to `params.shift` pixels, all drawn uniformly.
    """

    def draw(largest: float) -> Tensor:
        uniform = torch.rand(n, generator=generator, device=generator.device)
        return (2 * uniform - 1) * largest

    angle = draw(math.radians(params.rotation))
    cosine, sine = angle.cos(), angle.sin()
    width, height = 1 + draw(params.scaling), 1 + draw(params.scaling)
    shear = draw(params.shear)
    right, down = (draw(params.shift * 2 / SIDE) for _ in range(2))  # the image is 2 units wide
    rows = (
        torch.stack([cosine * width, (shear * cosine - sine) * height, right], dim=1),
        torch.stack([sine * width, (shear * sine + cosine) * height, down], dim=1),
    )
    return torch.stack(rows, dim=1)


def draw_bends(n: int, params: ConvolutionalParams, generator: torch.Generator) -> Tensor:
    """Draw how far each of n images is pulled right and down at 5 by 5 points, float32 [n, 2, 5, 5].

    Normally distributed, with a standard deviation of `params.bend` pixels, in units of half an image.
    """
    normal = torch.randn(n, 2, 5, 5, generator=generator, device=generator.device)
    return normal * (params.bend * 2 / SIDE)


def distort(images: Tensor, maps: Tensor, bends: Tensor) -> Tensor:
    """Return images float32 [n, 1, 28, 28], each under its affine map and smooth bend.

    Smooth random displacements of handwriting are those of P. Simard, D. Steinkraus, J. Platt, "Best
    Practices for Convolutional Neural Networks Applied to Visual Document Analysis", 2003.
    """
    grid = affine_grid(maps, list(images.shape), align_corners=False)
    if bends.any():
        smooth = interpolate(bends, size=images.shape[2:], mode="bicubic", align_corners=True)
        grid = grid + smooth.permute(0, 2, 3, 1)
    return grid_sample(images, grid, align_corners=False)
