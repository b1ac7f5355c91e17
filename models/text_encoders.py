"""Text encoders: word ids to word embeddings."""

from torch import Tensor, nn


class WordEncoder(nn.Module):
    """Look-up of word vectors (V, E) float32. Id 0 is the padding, whose vector stays zero even if they are trained."""

    def __init__(self, word_embeds: Tensor, trainable: bool = False):
        super().__init__()
        self.out_dim = word_embeds.shape[1]
        # padding_idx: through the norm of the zero vector, row 0's gradient would be without bound
        self.embedding = nn.Embedding.from_pretrained(word_embeds, freeze=not trainable, padding_idx=0)

    def forward(self, text: Tensor) -> Tensor:
        """(N, W) ids -> (N, W, E), not normalised."""
        return self.embedding(text)
