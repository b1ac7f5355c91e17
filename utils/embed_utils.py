"""Word vectors: where they come from, and one for every word of the vocabulary."""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from utils.io_utils import UserError, require_file, whole_file
from utils.step_utils import EMBEDDING

PAD = "<pad>"
BLOCK = 10_000_000  # bytes of word vectors looked through at a time
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
        UserError: no such file, a form that would have to be unpickled, a header that promises more or fewer vectors
            than there are, or content that is not word vectors.
    """
    from gensim.models import KeyedVectors

    if not path.is_file():
        raise UserError(f"{path}: no such file; set word2vec_embeddings.file to the path of your word vectors")
    try:
        form = _vector_form(path)
        vectors = KeyedVectors.load_word2vec_format(str(path), binary=not form.is_text)
    except UserError:
        raise
    except Exception as error:  # gensim and the decompressors raise many types for damaged files
        why = " ".join((str(error) or type(error).__name__).split())
        raise UserError(
            f"{path}: not word vectors in word2vec text or binary form, with words in UTF-8 ({why})"
        ) from None
    if not np.isfinite(vectors.vectors).all():
        word = vectors.index_to_key[_first_not_finite(vectors.vectors)]
        raise UserError(f"{path}: the vector of {word!r} is not finite")
    if form.is_longer_than(vectors.key_to_index):
        raise UserError(
            f"{path}: holds more than the {form.count} vectors that its first line promises; mend that line"
        )
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
    if not np.isfinite(rows).all():
        raise UserError(f"word2vec_embeddings: the vector of {words[_first_not_finite(rows)]!r} is not finite")
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
    if len(words) != len(vectors) or words[:1] != [PAD] or len(set(words)) != len(words):
        raise UserError(f"{path}: words and vectors do not belong together; run {EMBEDDING} again")
    if not np.isfinite(vectors).all():
        word = words[_first_not_finite(vectors)]
        raise UserError(f"{path}: the vector of {word!r} is not finite; run {EMBEDDING} again")
    if vectors.shape[1] != out_dim:
        raise UserError(
            f"CRNNWordModel.audio_enc.out_dim: is {out_dim}, but the word vectors in {path} have "
            f"{vectors.shape[1]} dimensions; make them equal"
        )
    return WordEmbeddings(words, vectors.astype(np.float32))


class _VectorForm(NamedTuple):
    """How a word2vec file is laid out, by its first line and its length."""

    count: int  # vectors, as the first line promises
    size: int  # dimensions
    is_text: bool
    rows: int  # of the text form, behind the first line
    length: int  # bytes behind the first line, decompressed

    def is_longer_than(self, words: Collection[str]) -> bool:
        """Whether vectors follow those of the words that were read."""
        if self.is_text:
            return self.rows > self.count
        read = sum(len(word.encode()) + 1 + 4 * self.size for word in words)
        # A line feed may follow each vector; where a word stands twice, the words do not tell what was read.
        return len(words) == self.count and self.length - read > self.count


def _vector_form(path: Path) -> _VectorForm:
    """Look through a word2vec file; raises UserError where it promises more than it holds, before that is reserved."""
    from smart_open import open as open_any

    with open_any(path, "rb") as stream:
        header = stream.readline(1000)
        if header.startswith(PICKLE_START):
            raise UserError(
                f"{path}: gensim's own format can run code when it is read; where you trust the file, convert it: "
                f"KeyedVectors.load({str(path)!r}).save_word2vec_format('vectors.bin', binary=True)"
            )
        count, size = (int(number) for number in header.split())
        first = stream.readline(1_000_000)
        rows, length = _rows_and_bytes(stream)
    rows, length = rows + 1, length + len(first)
    is_text = _is_row(first, size)
    if count < 1 or size < 1 or count * size * (2 if is_text else 4) > length:
        raise UserError(
            f"{path}: its first line promises {count} vectors of {size} dimensions, which the file does not hold; "
            "it is cut short, or that line is wrong"
        )
    return _VectorForm(count, size, is_text, rows, length)


def _rows_and_bytes(stream: BinaryIO) -> tuple[int, int]:
    """What is left of a stream: lines, without empty ones at the end, and bytes."""
    rows = length = 0
    line_feeds = 1  # at the end of what was looked at
    for block in iter(lambda: stream.read(BLOCK), b""):
        length += len(block)
        body = block.rstrip(b"\r\n")
        if body:
            rows += line_feeds + body.count(b"\n")
            line_feeds = 0
        line_feeds += block.count(b"\n", len(body))
    return rows, length


def _is_row(line: bytes, size: int) -> bool:
    """Whether this is a row of the text form: a word and as many numbers as the first line says."""
    cells = line.split()
    try:
        return len([float(cell) for cell in cells[-size:]]) == size and len(cells) == size + 1
    except ValueError:
        return False


def _first_not_finite(vectors: np.ndarray) -> int:
    return int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
