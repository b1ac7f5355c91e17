"""Word vectors: where they come from, and one for every word of the vocabulary."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from utils.io_utils import UserError, require_file, whole_file

PAD = "<pad>"
PICKLE_START = b"\x80"  # gensim's own .save format


class WordEmbeddings(NamedTuple):
    """A vector for each word; id 0 is the padding with the zero vector, the rest is sorted."""

    words: list[str]  # V
    vectors: np.ndarray  # (V, E) float32


class Coverage(NamedTuple):
    """How the vocabulary's words got their vectors."""

    found: list[str]
    by_variants: list[str]
    unknown: list[str]  # these share one vector


def load_vectors(source: str, file: str | None) -> Mapping[str, np.ndarray]:
    """Pretrained vectors by word, from gensim's downloader (source: its name) or from a local file (source: file)."""
    if source == "file":
        return read_vector_file(Path(file))
    import gensim.downloader

    try:
        return gensim.downloader.load(source)
    except (OSError, ValueError) as error:
        raise UserError(
            f"word2vec_embeddings.source: {source} could not be downloaded ({error}); download {source}.gz elsewhere "
            f"(python -m gensim.downloader --download {source}), and set word2vec_embeddings.source=file and "
            "word2vec_embeddings.file to its path"
        ) from None


def read_vector_file(path: Path) -> Mapping[str, np.ndarray]:
    """Read word vectors in word2vec text or binary form, gzipped or not.

    Raises:
        UserError: no such file, a form that would have to be unpickled, or content that is not word vectors.
    """
    from gensim.models import KeyedVectors
    from smart_open import open as open_any

    if not path.is_file():
        raise UserError(f"{path}: no such file; set word2vec_embeddings.file to the path of your word vectors")
    try:
        with open_any(path, "rb") as stream:
            header, first = stream.readline(1000), stream.readline(1_000_000)
        if header.startswith(PICKLE_START):
            raise UserError(
                f"{path}: gensim's own format can run code when it is read; where you trust the file, convert it: "
                f"KeyedVectors.load({str(path)!r}).save_word2vec_format('vectors.bin', binary=True)"
            )
        vectors = KeyedVectors.load_word2vec_format(str(path), binary=not _is_text(header, first))
    except (ValueError, EOFError, OSError, IndexError, MemoryError) as error:
        raise UserError(f"{path}: not word vectors in word2vec text or binary form ({error})") from None
    if not np.isfinite(vectors.vectors).all():
        word = vectors.index_to_key[_first_not_finite(vectors.vectors)]
        raise UserError(f"{path}: the vector of {word!r} is not finite")
    return vectors


def train_vectors(
    captions: list[list[str]], vector_size: int, window: int, epochs: int, seed: int
) -> Mapping[str, np.ndarray]:
    """Train gensim's Word2Vec on tokenised captions; one thread, so that the seed decides the result."""
    from gensim.models import Word2Vec

    model = Word2Vec(
        captions, vector_size=vector_size, window=window, epochs=epochs, min_count=1, sg=1, seed=seed, workers=1
    )
    return model.wv


def embed_vocabulary(
    vocabulary: list[str],
    vectors: Mapping[str, np.ndarray],
    variants: dict[str, list[str]],
    unk_max_dot: float,
    unk_max_draws: int,
    seed: int,
) -> tuple[WordEmbeddings, Coverage]:
    """A vector for each word: its own, else the mean of its variants' vectors, else the shared unknown-word vector.

    Raises UserError where not one word is found.
    """
    own = {word: vectors[word] for word in vocabulary if word in vectors}
    by_variants = {
        word: np.mean([vectors[variant] for variant in variants[word]], axis=0)
        for word in vocabulary
        if word not in own and word in variants and all(variant in vectors for variant in variants[word])
    }
    known = own | by_variants
    unknown = [word for word in vocabulary if word not in known]
    if not known:
        raise UserError("word2vec_embeddings: none of the vocabulary's words is among the word vectors")
    if unknown:
        vector = unknown_vector(np.array(list(known.values())), unk_max_dot, unk_max_draws, seed)
        known |= dict.fromkeys(unknown, vector)
    words = sorted(vocabulary)
    rows = np.array([known[word] for word in words], dtype=np.float32)
    embeddings = WordEmbeddings([PAD, *words], np.vstack([np.zeros_like(rows[:1]), rows]))
    return embeddings, Coverage(sorted(own), sorted(by_variants), unknown)


def unknown_vector(known: np.ndarray, max_dot: float, max_draws: int, seed: int) -> np.ndarray:
    """A unit vector that resembles no known word: drawn from the normal distribution of the normalised known vectors
    (V, E), each dimension apart, until its |dot| with every one of them is at most `max_dot`.

    After `max_draws` the draw with the smallest such |dot| is kept, with a warning.
    """
    normalised = known / np.maximum(np.linalg.norm(known, axis=1, keepdims=True), 1e-12)
    mean, std = normalised.mean(axis=0), normalised.std(axis=0)
    rng = np.random.default_rng(seed)
    best, best_dot = mean, np.inf
    for _ in range(max_draws):
        draw = rng.normal(mean, std)
        draw /= np.linalg.norm(draw)
        dot = np.abs(normalised @ draw).max()
        if dot < best_dot:
            best, best_dot = draw, dot
        if best_dot <= max_dot:
            return best
    warnings.warn(
        f"no unknown-word vector with |dot| <= {max_dot} in {max_draws} draws; kept the best, {best_dot:.3f}",
        stacklevel=2,
    )
    return best


def save_embeddings(path: Path, embeddings: WordEmbeddings) -> None:
    """Write words (V,) and vectors (V, E) as an npz file."""
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, words=np.array(embeddings.words), vectors=embeddings.vectors)


def load_embeddings(path: Path, out_dim: int) -> WordEmbeddings:
    """Read what `save_embeddings` wrote, for a model with embeddings of `out_dim` dimensions."""
    step = "preprocessing/3_word2vec_embeddings.py"
    require_file(path, step)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            words, vectors = arrays["words"].tolist(), arrays["vectors"]
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: not the word vectors of {step} ({error}); run it again") from None
    if vectors.ndim != 2 or len(words) != len(vectors) or words[:1] != [PAD]:
        raise UserError(f"{path}: words and vectors do not belong together; run {step} again")
    if not np.isfinite(vectors).all():
        raise UserError(f"{path}: the vector of {words[_first_not_finite(vectors)]!r} is not finite; run {step} again")
    if vectors.shape[1] != out_dim:
        raise UserError(
            f"CRNNWordModel.audio_enc.out_dim: is {out_dim}, but the word vectors in {path} have "
            f"{vectors.shape[1]} dimensions; make them equal"
        )
    return WordEmbeddings(words, vectors.astype(np.float32))


def _is_text(header: bytes, first: bytes) -> bool:
    """Whether a word2vec file is the text form: its first row is a word and as many numbers as the header says."""
    try:
        size = int(header.split()[1])
        cells = first.decode().split()
        return len([float(cell) for cell in cells[-size:]]) == size and len(cells) == size + 1
    except (ValueError, IndexError):
        return False


def _first_not_finite(vectors: np.ndarray) -> int:
    return int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
