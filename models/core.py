"""The dual encoder."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.audio_encoders import CHANNELS, DROPOUT, MEL_POOLING, CRNNEncoder
from models.tensors import upsample
from models.text_encoders import WordEncoder


class CRNNWordModel(nn.Module):
    """A CRNN over log-mels and a word look-up over captions, into one space of L2-normalised embeddings.

    Args:
        in_dim: log-mel bands.
        out_dim: E, the embedding dimension.
        word_embeds: (V, E) word vectors, row 0 (padding) zero.
        trainable_words: whether the word vectors are trained.
        dropout: of the audio encoder.

    Source: ICASSP 2023 paper, section 3; the state dict's keys are those of its published code.
    """

    def __init__(
        self, in_dim: int, out_dim: int, word_embeds: Tensor, trainable_words: bool = False, dropout: float = DROPOUT
    ):
        super().__init__()
        if word_embeds.shape[1] != out_dim:
            raise ValueError(f"word vectors have {word_embeds.shape[1]} dimensions, audio embeddings {out_dim}")
        self.audio_enc = CRNNEncoder(in_dim, out_dim, dropout)
        self.text_enc = WordEncoder(word_embeds, trainable_words)

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "CRNNWordModel":
        """A model of the sizes that a (published) state dict has, loaded with it.

        Raises KeyError or RuntimeError where the state dict is of another model.
        """
        in_dim = state["audio_enc.gru.weight_ih_l0"].shape[1] // CHANNELS * MEL_POOLING
        out_dim = 2 * state["audio_enc.gru.weight_hh_l0"].shape[1]
        model = cls(in_dim, out_dim, state["text_enc.embedding.weight"].clone())
        model.load_state_dict(state)
        return model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.text_enc.embedding.weight.device

    def encode_audio(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(N, T, in_dim) log-mel -> (N, L, E): `audio_branch` before upsampling and normalisation.

        `utils.score_utils.Score` takes these, which saves most of the dot products. With true lengths (N,) in
        evaluation mode, each clip's first `audio_enc.frames_out(length)` outputs are those of the clip alone.
        """
        return self.audio_enc(audio) if self.training else self.audio_enc.encode_padded(audio, lengths)

    def audio_branch(self, audio: Tensor) -> Tensor:
        """(N, T, in_dim) log-mel -> (N, T, E), each frame of length 1."""
        return F.normalize(upsample(self.encode_audio(audio), audio.shape[1]), dim=-1)

    def text_branch(self, text: Tensor) -> Tensor:
        """(N, W) word ids -> (N, W, E), each word of length 1, padding 0."""
        return F.normalize(self.text_enc(text), dim=-1)

    def forward(self, audio: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Both branches."""
        return self.audio_branch(audio), self.text_branch(text)
