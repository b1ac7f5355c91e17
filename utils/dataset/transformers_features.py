"""Features by audio encoders of the library `transformers`: the last hidden state, as frames.

A model is a directory as `save_pretrained` writes it, or a name on the hub, which is downloaded once into the hub's
cache. Its files are read here, and the library gets their tensors: no code of a model runs, and nothing is unpickled.
"""

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from utils.common.digests import digest_of, file_digest
from utils.common.errors import UserError, out_of_memory, reason_of
from utils.common.hub import model_folder, transformers_library
from utils.common.processes import pick_device
from utils.dataset.feature_model import FeatureModel
from utils.dataset.log_mel_config import LOWEST_RATE
from utils.dataset.mobilenet_features import KEY, PUBLISHED

SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")  # one of the last two may be absent
SAFE, PICKLED = ("model.safetensors", "pytorch_model.bin")  # the preferred form of weights first
DOWNLOADS = [  # patterns of the files to download: with the preferred form of weights, then with the other
    [*SETTINGS, SAFE, f"{SAFE}.index.json", "model-*.safetensors"],
    [*SETTINGS, PICKLED, f"{PICKLED}.index.json", "pytorch_model-*.bin"],
]
UNUSED = "masked_spec_embed"  # weights for training alone, which checkpoints may lack
NEEDED_BY = "audio_features.model: is transformers, which"
EXAMPLE = "MIT/ast-finetuned-audioset-10-10-0.4593"
ADVICE = f"download the model again, or name another in {KEY} (such as {EXAMPLE})"


class TransformersFeatures(FeatureModel):
    """Frames by a model of the library."""

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """(samples,) -> (L, D) float32; frames that begin after the sound's end, in its padding, are left out."""
        frames = _encoder_of(self.place, self.sha256).frames(waveform)
        return frames[: math.ceil(len(waveform) / (self.seconds_per_frame * self.sample_rate))]


def find_transformer(weights: str) -> TransformersFeatures:
    """The model of a directory, or of a name on the hub, downloaded if it is missing.

    Raises UserError where there is none, it cannot be downloaded, is no audio encoder, is damaged or incomplete.
    """
    transformers_library(NEEDED_BY)
    if weights in PUBLISHED:
        raise UserError(f"{KEY}: {weights} is one of efficientat's; name a model on the hub (such as {EXAMPLE})")
    folder = model_folder(KEY, weights, DOWNLOADS, _files)
    files = _files(folder)
    sha256 = digest_of({file.name: file_digest(file) for file in files})
    encoder = _encoder_of(folder, sha256)
    with _explained(folder, "the model and its feature extractor do not fit each other"):
        size = encoder.frames(np.zeros(encoder.shortest, np.float32)).shape[1]
    return TransformersFeatures(
        name=f"transformers {folder.resolve().name if folder == Path(weights) else weights}",
        place=folder,
        files=files,
        sha256=sha256,
        size=size,
        seconds_per_frame=encoder.per_frame / encoder.rate,
        sample_rate=encoder.rate,
        fmax=getattr(encoder.extractor, "frequency_max", encoder.rate / 2),
        window=encoder.window,
        longest=encoder.longest,
        shortest=encoder.shortest,
    )


# --- encoders --------------------------------------------------------------------------------------------


class _Encoder:
    """A model on this process's device, and its feature extractor. A family of models is a subclass.

    Args:
        network: in evaluation mode.
        extractor: makes the network's inputs of a waveform.

    A subclass sets, in samples: `window`, `longest` and `shortest`, as in FeatureModel, and `per_frame`.
    """

    extractor_class: ClassVar[str]
    network_class: ClassVar[str | None] = None  # None: the class of the configuration
    key_mapping: ClassVar[dict[str, str]] = {}  # from a checkpoint of the whole model to the audio encoder

    window: int
    longest: int
    shortest: int = 1
    per_frame: float

    def __init__(self, network: Any, extractor: Any):
        self.network, self.extractor, self.rate = network, extractor, extractor.sampling_rate
        if self.rate < LOWEST_RATE:
            raise ValueError(f"sampling_rate is {self.rate}")

    def frames(self, waveform: np.ndarray) -> np.ndarray:
        """(samples,) -> (L, D) float32, with the frames of the padding where the extractor pads."""
        with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
            inputs = self.extractor(waveform, sampling_rate=self.rate, return_tensors="pt").to(self.network.device)
            return self.of_hidden(self.network(**inputs).last_hidden_state)[0].cpu().numpy()

    def of_hidden(self, hidden: Tensor) -> Tensor:
        """The model's last hidden state -> (1, L, D), which it is for most models."""
        return hidden


class _AST(_Encoder):
    """AST (arXiv 2104.01778): two special tokens, then a token for each patch of the log-mel, low bands first.

    A frame is the mean of the patches of one time step over their bands; the special tokens are left out. The model has
    positions for `max_length` log-mel frames, 10.24 s, which make 101 frames of 0.1 s. Windows are 10.1 s, so that
    frames keep their distance across a cut.
    """

    extractor_class = "ASTFeatureExtractor"

    def __init__(self, network: Any, extractor: Any):
        super().__init__(network, extractor)
        config, hop = network.config, self.rate // 100  # of Kaldi's log-mel: 10 ms, of 25 ms windows
        self.bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        steps = (config.max_length - config.patch_size) // config.time_stride + 1
        self.per_frame = config.time_stride * hop
        self.window, self.longest, self.shortest = steps * self.per_frame, config.max_length * hop, self.rate // 40

    def of_hidden(self, hidden: Tensor) -> Tensor:
        return hidden[:, 2:].unflatten(1, (self.bands, -1)).mean(dim=1)  # (1, bands * L, D) -> (1, L, D)


class _CLAP(_Encoder):
    """CLAP's audio tower (arXiv 2211.06687): its last hidden state is an image (D, F, L), averaged over F.

    The extractor repeats or pads a sound to 10 s. It would cut a longer one at random: windows are never longer.
    """

    extractor_class = "ClapFeatureExtractor"
    network_class = "ClapAudioModel"
    key_mapping: ClassVar = {r"^audio_model\.": ""}

    def __init__(self, network: Any, extractor: Any):
        super().__init__(network, extractor)
        self.window = self.longest = int(extractor.nb_max_samples)
        self.per_frame = self.window / len(self.frames(np.zeros(self.window, np.float32)))

    def of_hidden(self, hidden: Tensor) -> Tensor:
        return hidden.mean(dim=2).transpose(1, 2)  # (1, D, F, L) -> (1, L, D)


class _Whisper(_Encoder):
    """Whisper's encoder (arXiv 2212.04356), over 30 s to which the extractor pads; a frame is two of the log-mel."""

    extractor_class = "WhisperFeatureExtractor"
    network_class = "models.whisper.modeling_whisper.WhisperEncoder"
    key_mapping: ClassVar = {r"^(model\.)?encoder\.": ""}

    def __init__(self, network: Any, extractor: Any):
        super().__init__(network, extractor)
        extractor.dither = 0.0  # noise
        self.window = self.longest = int(extractor.n_samples)
        self.per_frame = network.conv1.stride[0] * network.conv2.stride[0] * extractor.hop_length


class _Wav2Vec2(_Encoder):
    """wav2vec 2 (arXiv 2006.11477) and models of its form, over samples, which have no longest input.

    Attention's cost is quadratic: a clip of up to 30 s is encoded whole, a longer one in windows of 15 s, the last of
    up to 30 s.
    """

    extractor_class = "Wav2Vec2FeatureExtractor"

    def __init__(self, network: Any, extractor: Any):
        super().__init__(network, extractor)
        config = network.config
        self.window, self.longest = 15 * self.rate, 30 * self.rate
        self.per_frame = math.prod(config.conv_stride)
        if getattr(config, "add_adapter", False):
            self.per_frame *= config.adapter_stride**config.num_adapter_layers
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            self.shortest = (self.shortest - 1) * stride + kernel  # what one frame hears


LIKE_WAV2VEC2 = (
    *("wav2vec2", "wav2vec2-conformer", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat"),
    *("sew", "sew-d"),
)
FAMILIES: dict[str, type[_Encoder]] = {  # by the configuration's model_type
    "audio-spectrogram-transformer": _AST,
    "clap": _CLAP,
    "clap_audio_model": _CLAP,
    "whisper": _Whisper,
    **dict.fromkeys(LIKE_WAV2VEC2, _Wav2Vec2),
}


# --- files -----------------------------------------------------------------------------------------------


def _files(folder: Path) -> tuple[Path, ...]:
    """The files of a directory that decide a model's features. Raises UserError where one is missing."""
    settings = [folder / name for name in SETTINGS if (folder / name).is_file()]
    if folder / SETTINGS[0] not in settings:
        raise UserError(f"{folder}: not a model of transformers: it lacks {SETTINGS[0]}; {ADVICE}")
    if len(settings) == 1:
        raise UserError(f"{folder}: lacks the model's feature extractor, {SETTINGS[1]}; {ADVICE}")
    for weights in (SAFE, PICKLED):
        if (folder / weights).is_file():
            return (*settings, folder / weights)
        index = folder / f"{weights}.index.json"
        if index.is_file():
            return (*settings, index, *_parts(index))
    raise UserError(f"{folder}: lacks the model's weights, {SAFE} or {PICKLED}; {ADVICE}")


def _parts(index: Path) -> list[Path]:
    """The files of weights that an index names."""
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index}: names no files of weights; {ADVICE}")
    parts = [index.parent / name for name in sorted(set(names.values()))]
    for part in parts:
        if part.parent != index.parent or not part.is_file():
            raise UserError(f"{index}: names {part.name!r}, which is not beside it; {ADVICE}")
    return parts


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; {ADVICE}")
    return content


@cache
def _encoder_of(folder: Path, sha256: str) -> _Encoder:
    """This process's one copy of a directory's model, in float32; `sha256` is that of its files.

    Raises UserError where the model is no audio encoder, or is damaged or incomplete.
    """
    library = transformers_library(NEEDED_BY)
    kind = _read_json(folder / SETTINGS[0]).get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"{folder}: {kind!r:.40} is no audio encoder that can be used; name a model of {known}")
    family = FAMILIES[kind]
    with _explained(folder, "its feature extractor cannot be read"):
        loader = library.AutoFeatureExtractor
        extractor = loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if type(extractor).__name__ != family.extractor_class:
        found = type(extractor).__name__
        raise UserError(f"{folder}: its feature extractor is {found}, not {family.extractor_class}; {ADVICE}")
    with _explained(folder, "the model and its feature extractor do not fit each other"):
        return family(_load_network(folder, family), extractor)


def _load_network(folder: Path, family: type[_Encoder]) -> Any:
    """The network of a directory, in evaluation mode on this process's device."""
    library = transformers_library(NEEDED_BY)
    with _explained(folder, "no model of its configuration can be made of its weights"):
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        named = family.network_class
        network_class = attrgetter(named)(library) if named else library.MODEL_MAPPING[type(config)]
        network, report = network_class.from_pretrained(
            None,
            config=getattr(config, "audio_config", config),  # CLAP's
            state_dict=_state_dict(folder),
            key_mapping=family.key_mapping,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    if missing := [key for key in sorted(report["missing_keys"]) if not key.endswith(UNUSED)]:
        raise UserError(f"{folder}: lacks weights of the audio encoder, such as {missing[0]}; {ADVICE}")
    if not all(values.isfinite().all() for values in network.state_dict().values()):
        raise UserError(f"{folder}: holds weights that are not finite; {ADVICE}")
    return network.eval().to(pick_device())


def _state_dict(folder: Path) -> dict[str, Tensor]:
    """The tensors of a directory's weights, by key."""
    from safetensors.torch import load_file

    state = {}
    for file in (file for file in _files(folder) if file.suffix in (".safetensors", ".bin")):
        try:
            is_safe = file.suffix == ".safetensors"
            state |= load_file(file) if is_safe else torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # many types for damaged files; torch's advice is to allow code
            if out_of_memory(error):
                raise
            raise UserError(f"{file}: damaged, or not a file of weights alone; {ADVICE}") from None
    return state


@contextmanager
def _explained(folder: Path, fault: str) -> Iterator[None]:
    """Turn what the library raises for an unfit model, which may be of any type, into a UserError."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except Exception as error:
        if isinstance(error, UserError) or out_of_memory(error):
            raise
        raise UserError(f"{folder}: {fault} ({reason_of(error):.200}); {ADVICE}") from None
