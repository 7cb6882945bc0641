"""Intra-Batch connections (Seidenschwarz et al., ICML 2021): classification after passing messages over the batch.

The embeddings, normalised, go through transformer blocks whose attention is over the images of the batch: each adds
what an image attends to, then what a perceptron with one hidden layer of four times the width makes of it, each
followed by layer normalisation. Attention has one more place, of similarity and value 0, so that an image may attend
to nothing. What comes out is normalised over the batch, each dimension, and classified linearly. The loss is

    cross-entropy of classifier(embeddings) / temperature  +  cross-entropy of those logits / temperature

both with label smoothing. Only the embeddings are retrieved by: the network is training's.

Departures: the authors' network has dropout of 0.1, one more linear layer before the blocks and, after the
normalisation over the batch, one scale a dimension, which the classifier's weights stand for as well. Max pooling and
random erasing belong to a study's protocol. Here is one network from beginning to end: the authors' code goes back,
when it lowers the learning rate, to the network that was best on the test classes.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from dml import pairs
from dml.method import Method

TITLE = "Intra-Batch"
RANGES = {  # the code: temperatures of 0.11 (Cars) to 0.6 (SOP)
    "temperature": {"low": 0.05, "high": 1.0, "log": True},
    "loss_lr": {"low": 1e-6, "high": 0.1, "log": True},
}
DEFAULTS = {"temperature": 0.2, "loss_lr": 1.6e-4}  # CUB, where all weights learn at 1.6e-4
IMAGES_PER_CLASS = 4  # the code: 6 to 15 classes with 4 to 9 images; of a batch of 32 it is 8 classes


class IntraBatch(Method):
    """Wants images to be classified both alone and with the batch's help.

    One block of two heads, as in the paper on CUB; it has two of eight on Cars. The heads share embedding_size.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        temperature: float,
        blocks: int = 1,
        heads: int = 2,
        label_smoothing: float = 0.1,
    ):
        super().__init__()
        self.alone = nn.Linear(embedding_size, num_classes)
        self.blocks = nn.Sequential()
        for _ in range(blocks):
            block = nn.TransformerEncoderLayer(embedding_size, heads, 4 * embedding_size, dropout=0.0)
            block.self_attn.add_zero_attn = True
            self.blocks.append(block)
        self.together = nn.Linear(embedding_size, num_classes, bias=False)
        nn.init.normal_(self.together.weight, std=0.001)
        self.temperature, self.label_smoothing = temperature, label_smoothing

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        messages = self.blocks(pairs.normalised(embeddings))
        # Batch normalisation, which PyTorch's own refuses for a batch of one
        neck = F.layer_norm(messages.T, (len(messages),)).T
        return self._cross_entropy(self.alone(embeddings), labels) + self._cross_entropy(self.together(neck), labels)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits / self.temperature, labels, label_smoothing=self.label_smoothing)
