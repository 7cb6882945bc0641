"""The model: normalise pixels, trunk, pooling, linear head."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from dml import plugins
from dml.augmentation import normalise
from dml.files import read_bytes, write_bytes
from dml.method import Outputs
from dml.protocol import Protocol


class Model(nn.Module):
    """uint8 crops (B, 3, S, S), RGB, to embeddings and features.

    A trunk's file gives, as literals, CHANNELS, MEAN and STD (what its pixels look like, of 0-255), WIDTH and POOLING,
    and a function `build(weights)`, whose module makes of the normalised crops a feature map (B, WIDTH, h, w) or, in a
    transformer, tokens (B, 1 + N, WIDTH) with the class token first. The pooling makes features (B, WIDTH) of either.

    The head is one linear layer with PyTorch's initialisation, as in the paper's code. Without a head the features are
    the embeddings: the trunk as it is. Trunk and head start as the global random state has it.
    """

    def __init__(self, protocol: Protocol, has_head: bool, weights: Path | None = None) -> None:
        super().__init__()
        plugin = plugins.load("trunks", protocol.trunk)
        self.channels, self.mean, self.std = plugin.CHANNELS, plugin.MEAN, plugin.STD
        self.trunk, self.trunk_width = plugin.build(weights), plugin.WIDTH
        self.pooling = Pooling(protocol.pooling, learns=has_head)
        self.norm, self.head = nn.Identity(), nn.Identity()
        self.embedding_size = plugin.WIDTH
        if has_head:
            if protocol.head_layernorm:
                self.norm = nn.LayerNorm(plugin.WIDTH, elementwise_affine=False)
            self.head = nn.Linear(plugin.WIDTH, protocol.embedding_size, bias=protocol.head_bias)
            self.embedding_size = protocol.embedding_size
        self.precision = protocol.precision
        self.freeze_batchnorm = protocol.freeze_batchnorm
        if self.freeze_batchnorm == "everything":
            for module in self._batchnorms():
                module.requires_grad_(False)

    def forward(self, images: Tensor) -> Outputs:
        if self.precision == "tf32":
            set_precision("tf32")
        pixels = normalise(images, self.channels, self.mean, self.std)
        with self._autocast(images):
            maps = self.trunk(pixels)
            embeddings, features = self.pooled(maps, self.pooling)
        outputs = embeddings.float(), features.float(), maps
        return Outputs(*(_Float32Beyond.apply(*outputs) if self.precision == "tf32" else outputs))

    def pooled(self, maps: Tensor, pooling: "Pooling") -> tuple[Tensor, Tensor]:
        """What the head makes of the trunk's maps by a pooling, and the features between: (B, D), (B, WIDTH)."""
        with self._autocast(maps):
            features = pooling(maps)
            return self.head(self.norm(features)), features

    def _autocast(self, tensor: Tensor) -> torch.autocast:
        return torch.autocast(tensor.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def train(self, mode: bool = True) -> Self:
        """Training mode; the running statistics of batch normalisation stay as they are if they are frozen."""
        super().train(mode)
        if self.freeze_batchnorm != "nothing":
            for module in self._batchnorms():
                module.eval()
        return self

    def _batchnorms(self) -> list[nn.Module]:
        return [m for m in self.trunk.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


class _Float32Beyond(Function):
    """What comes after the model, the loss above all, computes in float32 proper, forwards and backwards."""

    @staticmethod
    def forward(ctx: FunctionCtx, *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        set_precision("float32")
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        set_precision("tf32")
        return gradients


class Pooling(nn.Module):
    """Feature map (B, WIDTH, h, w) or tokens (B, 1 + N, WIDTH) to features (B, WIDTH).

    `kind` as in `Protocol.pooling`; of tokens all but `token` see the patches, not the class token. average_max is the
    sum of both (Kim et al., Proxy Anchor Loss, the code). gem is the mean of the p-th powers to the 1 / p, one p for
    all channels, from 3 on (Radenovic et al., Fine-tuning CNN Image Retrieval); p is a weight if the pooling `learns`.
    """

    def __init__(self, kind: str, learns: bool) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gem":
            self.p = nn.Parameter(torch.tensor(3.0)) if learns else 3.0

    def forward(self, features: Tensor) -> Tensor:
        if self.kind == "token":
            return features[:, 0]
        places, dims = (features[:, 1:], (1,)) if features.ndim == 3 else (features, (2, 3))
        if self.kind == "average":
            return places.mean(dims)
        if self.kind == "max":
            return places.amax(dims)
        if self.kind == "average_max":
            return places.mean(dims) + places.amax(dims)
        # By logarithms: the powers themselves leave float32 for a p of 7, and their gradient is then NaN.
        powers = self.p * places.clamp(min=1e-6).log()
        count = math.prod(places.shape[dim] for dim in dims)
        return ((powers.logsumexp(dims) - math.log(count)) / self.p).exp()


def set_precision(precision: str) -> None:
    """Have this process multiply and convolve in float32 proper on GPUs, or in TensorFloat-32 if `precision` is tf32.

    PyTorch's own default is TensorFloat-32 for convolutions. What bfloat16 leaves in float32 is float32 proper.
    """
    allowed = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = allowed
    torch.backends.cudnn.conv.fp32_precision = allowed
    torch.backends.cudnn.rnn.fp32_precision = allowed  # unlike the others, it would make PyTorch refuse to say which


def save_model(model: Model, path: Path) -> str:
    """Write all tensors as safetensors; gives the SHA-256 of the file."""
    from safetensors.torch import save

    return write_bytes(path, save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}))


def save_checkpoints(states: Mapping[int, Mapping[str, Tensor]], path: Path) -> str:
    """Write the tensors of a model after several steps, as safetensors; gives the SHA-256 of the file."""
    from safetensors.torch import save

    named = {f"{step}/{name}": tensor for step, state in states.items() for name, tensor in state.items()}
    return write_bytes(path, save({name: tensor.cpu().contiguous() for name, tensor in named.items()}))


def load_checkpoints(path: Path, record: Mapping[str, Any]) -> dict[int, dict[str, Tensor]]:
    """What `save_checkpoints` wrote: step -> name -> tensor.

    ValueError if the file is not the one that the training's record names: it is set aside.
    """
    from safetensors.torch import load

    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load(read_bytes(path, record["checkpoints"])).items():
        step, _, name = key.partition("/")
        states.setdefault(int(step), {})[name] = tensor
    return dict(sorted(states.items()))


def load_model(path: Path, record: Mapping[str, Any]) -> Model:
    """A finished model that `save_model` wrote, from its file and its record.

    ValueError if the file is not the one that the record names: it is set aside.
    """
    from safetensors.torch import load

    state = load(read_bytes(path, record["model"]))
    protocol = Protocol.check(record["protocol"] | {"weights": None}, str(path))  # its weights are the model's now
    model = Model(protocol, has_head="head.weight" in state)
    model.load_state_dict(state)
    return model


def load_state(path: Path) -> dict[str, Any]:
    """The tensors of a weight file, safetensors or PyTorch's format. Only tensors are read: no code can run.

    Some files hold them one level deeper, below "model" or "state_dict". ValueError naming the file if it is no such
    file.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # the loaders raise whatever a damaged or foreign file makes them stumble over
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a file of weights, in PyTorch's format or safetensors ({reason})") from error


def load_weights(network: nn.Module, path: Path, convert: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> None:
    """Put the weights of a file into a network, all of them and no others.

    `convert` makes the file's names those of the network, and takes out what is not of it. ValueError naming the file
    if the weights are of another network.
    """
    state = load_state(path)
    try:
        network.load_state_dict(convert(state))
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # all but the first: the file is no dict
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: the weights do not fit the trunk ({reason})") from error


def without(state: dict[str, Any], *prefixes: str) -> dict[str, Any]:
    """The state without the tensors of some modules, such as a classifier: those whose names begin so."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}
