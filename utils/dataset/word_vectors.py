"""Word vectors: where they come from, and one for every word of the vocabulary."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.common.errors import UserError
from utils.common.io import atomic_write, require_file
from utils.common.steps import EMBEDDING
from utils.dataset.captions import is_typed
from utils.dataset.vector_file import Row, vector_rows

PAD = "<pad>"
FEWEST_FOUND = 0.1  # of the vocabulary's words: word vectors that know fewer are others than were meant


class WordEmbeddings(NamedTuple):
    """A vector for each word; of the vocabulary id 0 is the padding with the zero vector, the rest is sorted."""

    words: list[str]  # V
    vectors: np.ndarray  # (V, E) float32


class Coverage(NamedTuple):
    """How the vocabulary's words got their vectors."""

    found: list[str]
    by_variants: list[str]
    unknown: list[str]  # these share one vector


def source_rows(source: str, file: str | None) -> Iterable[Row]:
    """Pretrained words and vectors, from gensim's downloader (source: its name) or from a local file (source: file)."""
    if source == "file":
        yield from vector_rows(Path(file))
        return
    path = _downloaded(source)
    try:
        yield from vector_rows(path)
    except UserError as error:
        raise UserError(f"{error}; remove {path.parent}, and run this again to download it anew") from None


def _downloaded(source: str) -> Path:
    """Where gensim's downloader keeps a source, downloaded where it is missing."""
    from gensim import downloader

    path = Path(downloader.BASE_DIR) / source / f"{source}.gz"
    if path.exists():
        return path
    if path.parent.exists():  # gensim goes by the folder alone
        raise UserError(f"{path.parent}: damaged, {path.name} is missing; remove it, and run this again to download it")
    try:
        return Path(downloader.load(source, return_path=True))
    except Exception as error:  # gensim raises a bare one where a checksum is wrong
        why = " ".join((str(error) or type(error).__name__).split())
        raise UserError(
            f"word2vec_embeddings.source: {source} could not be downloaded ({why}); download {source}.gz elsewhere "
            f"(python -m gensim.downloader --download {source}), and set word2vec_embeddings.source=file and "
            "word2vec_embeddings.file to its path"
        ) from None


def wanted_vectors(
    rows: Iterable[Row], wanted: set[str], is_extra: Callable[[str], bool], count: int
) -> dict[str, np.ndarray]:
    """Of all rows, those of wanted words, and of the first `count` others that are extra words, in their order.

    Of a word that stands twice, the first row counts.
    """
    kept: dict[str, np.ndarray] = {}
    for word, vector in rows:
        if word not in kept:
            if word not in wanted:
                if count < 1 or not is_extra(word):
                    continue
                count -= 1
            kept[word] = vector
    return kept


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
    unk_max_dot: float,
    unk_max_draws: int,
    seed: int,
) -> tuple[WordEmbeddings, Coverage]:
    """A vector for each word: its own, else the mean of its variants' vectors, else the shared unknown-word vector.

    Raises UserError where next to no word is found.
    """
    own = {word: vectors[word] for word in vocabulary if word in vectors}
    by_variants = {
        word: np.mean([vectors[variant] for variant in variants[word]], axis=0)
        for word in vocabulary
        if word not in own and word in variants and all(variant in vectors for variant in variants[word])
    }
    known = own | by_variants
    unknown = [word for word in vocabulary if word not in known]
    if len(known) < FEWEST_FOUND * len(vocabulary):
        raise UserError(
            f"word2vec_embeddings: the word vectors know {len(known)} of the vocabulary's {len(vocabulary)} words; "
            "they are of another language, or not what they seem: choose others"
        )
    if unknown:
        vector = unknown_vector(np.array(list(known.values())), unk_max_dot, unk_max_draws, seed)
        known |= dict.fromkeys(unknown, vector)
    words = sorted(vocabulary)
    rows = np.array([known[word] for word in words], dtype=np.float32)
    if not np.isfinite(rows).all():
        raise UserError(f"word2vec_embeddings: the vector of {words[first_not_finite(rows)]!r} is not finite")
    embeddings = WordEmbeddings([PAD, *words], np.vstack([np.zeros_like(rows[:1]), rows]))
    return embeddings, Coverage(sorted(own), sorted(by_variants), unknown)


def further_words(
    vectors: Mapping[str, np.ndarray], vocabulary: list[str], count: int, corrections: dict[str, str]
) -> WordEmbeddings:
    """The first `count` words of the vectors' source, whose order is by frequency, beside the vocabulary: (X, E).

    What no query can hold, as it is cleaned and corrected (capitals, punctuation, underscores), is passed over.

    Raises UserError where there are fewer.
    """
    known = set(vocabulary)
    others = (word for word in vectors if word not in known and is_typed(word, corrections))
    words = list(islice(others, count))
    if len(words) < count:
        raise UserError(
            f"word2vec_embeddings.extra_words: is {count}, but beside the vocabulary the word vectors have only "
            f"{len(words)} words that a query can hold; ask for no more"
        )
    rows = np.array([vectors[word] for word in words], np.float32)
    if not np.isfinite(rows).all():
        raise UserError(f"word2vec_embeddings: the vector of {words[first_not_finite(rows)]!r} is not finite")
    return WordEmbeddings(words, rows)


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


def first_not_finite(vectors: np.ndarray) -> int:
    """The first row (of (V, E)) with a NaN or an infinity."""
    return int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])


def save_embeddings(path: Path, embeddings: WordEmbeddings) -> None:
    """Write words (V,) and vectors (V, E) as an npz file."""
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, words=np.array(embeddings.words), vectors=embeddings.vectors)


def load_embeddings(path: Path, out_dim: int | None = None) -> WordEmbeddings:
    """Read what `save_embeddings` wrote; `out_dim` is how many dimensions the configuration asks for, if it does.

    Raises UserError where the file is missing, damaged, or has vectors of another, or an odd, number of dimensions.
    """
    words, vectors = _read_embeddings(path)
    if words[:1] != [PAD]:
        raise UserError(f"{path}: words and vectors do not belong together; run {EMBEDDING} again")
    size = vectors.shape[1]
    if out_dim not in (None, size):
        raise UserError(
            f"CRNNWordModel.audio_enc.out_dim: is {out_dim}, but the word vectors in {path} have {size} dimensions; "
            "leave it at null, or make them equal"
        )
    if size % 2 or not size:
        raise UserError(f"{path}: vectors of {size} dimensions; the audio encoder's two directions need an even number")
    return WordEmbeddings(words, vectors)


def load_further_words(path: Path, count: int, vocabulary: list[str], size: int) -> WordEmbeddings:
    """The first `count` of the words that `save_embeddings` kept of `further_words`, beside a vocabulary.

    Raises UserError where the file is missing or damaged, has fewer, vectors of another size, or the vocabulary's own.
    """
    words, vectors = _read_embeddings(path)
    if len(words) < count:
        raise UserError(
            f"{path}: holds {len(words)} words, but word2vec_embeddings.extra_words is {count}; run {EMBEDDING} with "
            "that setting, or lower it"
        )
    if vectors.shape[1] != size or not set(vocabulary).isdisjoint(words):
        raise UserError(f"{path}: does not belong to the vocabulary and its vectors; run {EMBEDDING} again")
    return WordEmbeddings(words[:count], vectors[:count])


def _read_embeddings(path: Path) -> WordEmbeddings:
    require_file(path, EMBEDDING)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            words, vectors = arrays["words"], arrays["vectors"]
            if (words.ndim, words.dtype.kind, vectors.ndim, vectors.dtype.kind) != (1, "U", 2, "f"):
                raise ValueError("arrays of other types or shapes")
            words = words.tolist()
    except Exception as error:  # numpy and zipfile raise many types for damaged files
        why = (str(error) or type(error).__name__).partition("\n")[0]
        raise UserError(f"{path}: not the word vectors of {EMBEDDING} ({why}); run it again") from None
    if len(words) != len(vectors) or len(set(words)) != len(words):
        raise UserError(f"{path}: words and vectors do not belong together; run {EMBEDDING} again")
    if not np.isfinite(vectors).all():
        word = words[first_not_finite(vectors)]
        raise UserError(f"{path}: the vector of {word!r} is not finite; run {EMBEDDING} again")
    return WordEmbeddings(words, vectors.astype(np.float32))
