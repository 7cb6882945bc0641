"""The model: normalise pixels, trunk, linear head."""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from dml import plugins
from dml.augmentation import normalise
from dml.files import whole
from dml.method import Outputs
from dml.protocol import Protocol


class Model(nn.Module):
    """uint8 crops (B, 3, S, S), RGB, to embeddings and features.

    The head is one linear layer with bias and PyTorch's initialisation, as in the paper's code. Without a head
    (`embedding_size` None) the features are the embeddings: the trunk as it is.
    """

    def __init__(
        self, trunk_name: str, embedding_size: int | None, freeze_batchnorm: bool, weights: Path | None = None
    ) -> None:
        super().__init__()
        plugin = plugins.load("trunks", trunk_name)
        self.channels, self.mean, self.std = plugin.CHANNELS, plugin.MEAN, plugin.STD
        self.trunk = plugin.build(weights)
        self.head = nn.Linear(plugin.WIDTH, embedding_size) if embedding_size else nn.Identity()
        self.embedding_size = embedding_size or plugin.WIDTH
        self.freeze_batchnorm = freeze_batchnorm

    def forward(self, images: Tensor) -> Outputs:
        features = self.trunk(normalise(images, self.channels, self.mean, self.std))
        return Outputs(self.head(features), features)

    def train(self, mode: bool = True) -> Self:
        """Training mode; the running statistics of batch normalisation stay as they are if they are frozen."""
        super().train(mode)
        if self.freeze_batchnorm:
            for module in self.trunk.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def build_model(protocol: Protocol, trains: bool, weights: Path | None) -> Model:
    """A fresh model of a study: trunk with its weights, head as the global random state gives it."""
    return Model(protocol.trunk, protocol.embedding_size if trains else None, protocol.freeze_batchnorm, weights)


def save_model(model: Model, path: Path) -> None:
    """Write all tensors as safetensors."""
    from safetensors.torch import save_file

    with whole(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary)


def load_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file, safetensors or PyTorch's format. Only tensors are read: no code can run.

    ValueError naming the file if it is no such file.
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


def load_weights(network: nn.Module, path: Path) -> None:
    """Put the weights of a file into a network. ValueError naming the file if they are of another network."""
    try:
        network.load_state_dict(load_state(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: the weights do not fit the trunk ({reason})") from error
