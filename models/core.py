"""The dual encoder."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.audio_encoders import CRNNEncoder, FeatureEncoder
from models.tensors import to_device, upsample
from models.text_encoders import WordEncoder


class CRNNWordModel(nn.Module):
    """An audio encoder and a word look-up over captions, into one space of E dimensions.

    Args:
        audio_enc: one of `models.audio_encoders.AUDIO_ENCODERS`; as published, a CRNN over log-mels.
        text_enc: the look-up.
        audio_projection: E, where a LayerNorm without parameters and a trained linear map follow the audio encoder.
        text_projection: E, where a trained linear map without bias follows the look-up.

    Raises ValueError where the two sides' dimensions differ.
    Source: ICASSP 2023 paper, section 3; the state dict's keys are those of its published code.
    """

    def __init__(
        self,
        audio_enc: nn.Module,
        text_enc: WordEncoder,
        audio_projection: int | None = None,
        text_projection: int | None = None,
    ):
        super().__init__()
        audio_dim, text_dim = audio_projection or audio_enc.out_dim, text_projection or text_enc.out_dim
        if audio_dim != text_dim:
            raise ValueError(f"text embeddings have {text_dim} dimensions, audio embeddings {audio_dim}")
        self.audio_enc, self.text_enc = audio_enc, text_enc
        self.audio_norm, self.audio_projection, self.text_projection = nn.Identity(), nn.Identity(), nn.Identity()
        if audio_projection:
            self.audio_norm = nn.LayerNorm(audio_enc.out_dim, elementwise_affine=False)
            self.audio_projection = nn.Linear(audio_enc.out_dim, audio_projection)
        if text_projection:
            self.text_projection = nn.Linear(text_enc.out_dim, text_projection, bias=False)

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "CRNNWordModel":
        """A model of the sizes that a (published) state dict has, loaded with it.

        Raises KeyError or RuntimeError where the state dict is of another model.
        """
        encoder = CRNNEncoder if any(key.startswith("audio_enc.") for key in state) else FeatureEncoder
        projections = (state.get(f"{side}_projection.weight") for side in ("audio", "text"))
        sizes = (None if weight is None else len(weight) for weight in projections)
        words = WordEncoder(state["text_enc.embedding.weight"].clone())
        model = cls(encoder.from_state_dict(state), words, *sizes)
        model.load_state_dict(state)
        return model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.text_enc.embedding.weight.device

    def encode_audio(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(N, T, in_dim) audio -> (N, L, E): `audio_branch` before upsampling and normalisation.

        `utils.score_utils.Score` takes these, which saves most of the dot products. With true lengths (N,) in
        evaluation mode, each clip's first `audio_enc.frames_out(length)` outputs are those of the clip alone.
        """
        return self.audio_projection(self._normed(audio, lengths))

    def encode_clips(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(N, T, in_dim) audio -> (N, 1, E): the mean of `encode_audio` over each clip's own outputs, or over all L.

        The mean is taken before the linear map, with which it commutes: one product a clip, not one an output.
        """
        outputs = self._normed(audio, lengths)  # (N, L, D)
        if lengths is None:
            return self.audio_projection(outputs.mean(dim=1, keepdim=True))
        counts = to_device(self.audio_enc.frames_out(lengths), outputs.device).unsqueeze(1)  # (N, 1)
        inside = torch.arange(outputs.shape[1], device=outputs.device) < counts  # (N, L)
        return self.audio_projection((inside / counts).unsqueeze(1).to(outputs.dtype) @ outputs)

    def _normed(self, audio: Tensor, lengths: Tensor | None) -> Tensor:
        """(N, T, in_dim) -> (N, L, D): what the linear map takes."""
        return self.audio_norm(self.audio_enc(audio) if self.training else self.audio_enc.encode_padded(audio, lengths))

    def encode_text(self, text: Tensor) -> Tensor:
        """(N, W) word ids -> (N, W, E): `text_branch` before normalisation."""
        return self.text_projection(self.text_enc(text))

    def audio_branch(self, audio: Tensor) -> Tensor:
        """(N, T, in_dim) audio -> (N, T, E), each frame of length 1."""
        return F.normalize(upsample(self.encode_audio(audio), audio.shape[1]), dim=-1)

    def text_branch(self, text: Tensor) -> Tensor:
        """(N, W) word ids -> (N, W, E), each word of length 1, padding 0."""
        return F.normalize(self.encode_text(text), dim=-1)

    def forward(self, audio: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Both branches."""
        return self.audio_branch(audio), self.text_branch(text)
