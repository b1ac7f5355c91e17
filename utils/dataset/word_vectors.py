"""Word vectors: get pretrained ones, and store one for every word of the vocabulary."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.common.counts import counted
from utils.common.errors import UserError, reason_of
from utils.common.io import atomic_write, require_file
from utils.common.steps import EMBEDDING, Stage
from utils.dataset.vector_file import Row, vector_rows

PAD = "<pad>"
FEWEST_FOUND = 0.1  # of the vocabulary; word vectors that know fewer words are probably the wrong ones


class WordEmbeddings(NamedTuple):
    """Words and their vectors; in the vocabulary id 0 is the padding with the zero vector, the rest is sorted."""

    words: list[str]  # V
    vectors: np.ndarray  # (V, E) float32


class Coverage(NamedTuple):
    """How the vocabulary's words got their vectors."""

    found: list[str]
    by_variants: list[str]
    unknown: list[str]  # these share one vector


def source_rows(source: str, file: str | None) -> Iterable[Row]:
    """Pretrained words and vectors, from a local file (source: file) or from gensim's downloader (source: its name)."""
    if source == "file":
        yield from vector_rows(Path(file))
        return
    path = _downloaded(source)
    try:
        yield from vector_rows(path)
    except UserError as error:
        raise UserError(f"{error}; remove {path.parent}, and run this again to download it") from None


def _downloaded(source: str) -> Path:
    """The file of gensim's downloader for a source, downloaded if it is missing."""
    from gensim import downloader

    path = Path(downloader.BASE_DIR) / source / f"{source}.gz"
    if path.exists():
        return path
    if path.parent.exists():  # gensim looks for the folder only
        raise UserError(f"{path.parent}: damaged, {path.name} is missing; remove it, and run this again to download it")
    try:
        return Path(downloader.load(source, return_path=True))
    except Exception as error:  # gensim raises a plain Exception if a checksum is wrong
        reason = reason_of(error)
        raise UserError(
            f"word2vec_embeddings.source: {source} could not be downloaded ({reason}); download {source}.gz elsewhere "
            f"(python -m gensim.downloader --download {source}), and set word2vec_embeddings.source=file and "
            "word2vec_embeddings.file to its path"
        ) from None


def choose_vectors(
    rows: Iterable[Row], wanted: set[str], is_extra: Callable[[str], bool], count: int
) -> tuple[dict[str, np.ndarray], WordEmbeddings]:
    """Choose the vectors of wanted words, and the first `count` extra words; word vectors are sorted by frequency.

    The first row of a repeated word counts. Raises UserError if there are fewer extra words.
    """
    vectors: dict[str, np.ndarray] = {}
    extra: dict[str, np.ndarray] = {}
    for word, vector in rows:
        if word in wanted:
            vectors.setdefault(word, vector)
        if len(extra) < count and is_extra(word):
            extra.setdefault(word, vector)
    if len(extra) < count:
        raise UserError(
            f"word2vec_embeddings.extra_words: is {count}, but the word vectors have only "
            f"{counted(len(extra), 'word')} outside the vocabulary that a query can hold; lower it"
        )
    return vectors, WordEmbeddings(list(extra), np.array(list(extra.values()), np.float32))


def train_vectors(
    captions: list[list[str]], vector_size: int, window: int, epochs: int, seed: int
) -> dict[str, np.ndarray]:
    """Train gensim's Word2Vec on tokenised captions; one thread, so that the seed decides the result."""
    from gensim.models import Word2Vec

    model = Word2Vec(
        captions, vector_size=vector_size, window=window, epochs=epochs, min_count=1, sg=1, seed=seed, workers=1
    )
    return {word: model.wv[word] for word in model.wv.index_to_key}


def embed_vocabulary(
    vocabulary: list[str],
    vectors: Mapping[str, np.ndarray],
    variants: dict[str, list[str]],
    unknown: Callable[[np.ndarray], np.ndarray],
) -> tuple[WordEmbeddings, Coverage]:
    """Give each word its own vector, else the mean of its variants' vectors, else the shared unknown-word vector.

    `unknown` draws that vector from those of the known words (V, E).

    Raises UserError if hardly any word is known.
    """
    found = {word: vectors[word] for word in vocabulary if word in vectors}
    by_variants = {
        word: np.mean([vectors[variant] for variant in variants[word]], axis=0)
        for word in vocabulary
        if word not in found and word in variants and all(variant in vectors for variant in variants[word])
    }
    known = found | by_variants
    unknown_words = [word for word in vocabulary if word not in known]
    if len(known) < FEWEST_FOUND * len(vocabulary):
        raise UserError(
            f"word2vec_embeddings: the word vectors know {len(known)} of the vocabulary's {len(vocabulary)} words; "
            "they may be of another language: choose others"
        )
    if unknown_words:
        known |= dict.fromkeys(unknown_words, unknown(np.array(list(known.values()))))
    words = sorted(vocabulary)
    rows = np.array([known[word] for word in words], dtype=np.float32)
    if (word := _first_not_finite(words, rows)) is not None:
        raise UserError(f"word2vec_embeddings: the vector of {word!r} is not finite")
    embeddings = WordEmbeddings([PAD, *words], np.vstack([np.zeros_like(rows[:1]), rows]))
    return embeddings, Coverage(sorted(found), sorted(by_variants), unknown_words)


def unknown_vector(known: np.ndarray, max_dot: float, max_draws: int, seed: int) -> np.ndarray:
    """Draw a unit vector that resembles no known word, from a normal distribution with the mean and standard deviation
    of the normalised known vectors (V, E) in each dimension, until its |dot| with all of them is at most `max_dot`.

    After `max_draws` it keeps the draw with the smallest |dot|, and warns.
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


def _first_not_finite(words: list[str], vectors: np.ndarray) -> str | None:
    """The first word whose vector, a row of (V, E), has a NaN or an infinity."""
    is_finite = np.isfinite(vectors).all(axis=1)
    return None if is_finite.all() else words[is_finite.argmin()]


def save_embeddings(path: Path, embeddings: WordEmbeddings) -> None:
    """Write words (V,) and vectors (V, E) as an npz file."""
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, words=np.array(embeddings.words), vectors=embeddings.vectors)


def load_embeddings(path: Path, out_dim: int | None = None, made_by: Stage = EMBEDDING) -> WordEmbeddings:
    """Read the vocabulary's vectors, of `out_dim` dimensions if the configuration sets that, which a step made.

    Raises UserError if the file is missing or damaged, or its vectors have another, or an odd, number of dimensions.
    """
    words, vectors = _read_embeddings(path, made_by)
    if words[:1] != [PAD]:
        raise UserError(f"{path}: words and vectors do not belong together; run {made_by} again")
    size = vectors.shape[1]
    if out_dim not in (None, size):
        raise UserError(
            f"CRNNWordModel.audio_enc.out_dim: is {out_dim}, but the vectors in {path} have {size} dimensions; "
            "leave it at null, or make them equal"
        )
    if size % 2 or not size:
        raise UserError(f"{path}: vectors of {size} dimensions; the audio encoder's two directions need an even number")
    return WordEmbeddings(words, vectors)


def load_further_words(path: Path, count: int, vocabulary: list[str], size: int) -> WordEmbeddings:
    """Read the first `count` words outside the vocabulary that step 3 chose.

    Raises UserError if the file is missing or damaged, has fewer words, vectors of other than `size` dimensions, or
    words of the vocabulary.
    """
    words, vectors = _read_embeddings(path, EMBEDDING)
    if len(words) < count:
        raise UserError(
            f"{path}: holds {counted(len(words), 'word')}, but word2vec_embeddings.extra_words is {count}; run "
            f"{EMBEDDING} with that setting, or lower it"
        )
    if vectors.shape[1] != size or not set(vocabulary).isdisjoint(words):
        raise UserError(f"{path}: does not belong to the vocabulary and its vectors; run {EMBEDDING} again")
    return WordEmbeddings(words[:count], vectors[:count])


def _read_embeddings(path: Path, made_by: Stage) -> WordEmbeddings:
    require_file(path, made_by)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            words, vectors = arrays["words"], arrays["vectors"]
            if (words.ndim, words.dtype.kind, vectors.ndim, vectors.dtype.kind) != (1, "U", 2, "f"):
                raise ValueError("arrays of other types or shapes")
            words = words.tolist()
    except Exception as error:  # numpy and zipfile raise many types for damaged files
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise UserError(f"{path}: not the vectors of {made_by} ({reason}); run it again") from None
    if len(words) != len(vectors) or len(set(words)) != len(words):
        raise UserError(f"{path}: words and vectors do not belong together; run {made_by} again")
    if (word := _first_not_finite(words, vectors)) is not None:
        raise UserError(f"{path}: the vector of {word!r} is not finite; run {made_by} again")
    return WordEmbeddings(words, vectors.astype(np.float32))
