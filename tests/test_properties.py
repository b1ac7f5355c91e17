"""Properties of every input, tested on inputs that Hypothesis draws, the same ones in every run."""

import csv
import itertools
from unicodedata import category, normalize

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import reference
from tests.helpers import ROOT, embedding_scores
from utils.common.errors import UserError
from utils.common.io import write_csv
from utils.conf.load import load_conf, save_conf
from utils.conf.schema import Conf
from utils.criterion_utils import TripletLoss, negative_mask
from utils.dataset.captions import clean_caption, read_captions
from utils.dataset.index import read_table
from utils.metric_utils import retrieval_metrics
from utils.sampling_utils import STRATEGIES
from utils.score_utils import Batch, Score, score_matrix

few = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
fewer = settings(few, max_examples=25)
# all that UTF-8 can encode
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


# --- captions --------------------------------------------------------------------------------------------


@few
@given(st.text(st.one_of(st.characters(), st.sampled_from("aZ.,-'\"!?/\\:;#İΣß \t\n\u00a0\u2028"))))
@example("İstanbul: ΑΣ. straße")
def test_cleaned_captions_keep_their_letters_and_cleaning_again_changes_nothing(raw):
    text = clean_caption(raw)
    kept = set("LMN") | {"Pd"}
    assert all({category(letter), category(letter)[0]} & kept for word in text.split() for letter in word)
    assert not any(category(word[0])[0] == "M" for word in text.split())
    assert [letter for letter in normalize("NFD", text) if letter.isalnum()] == [
        letter for letter in normalize("NFD", raw.lower()) if letter.isalnum()
    ]
    assert clean_caption(normalize("NFD", raw)) == clean_caption(normalize("NFC", raw)) == text
    assert clean_caption(text) == text == text.lower() == text.strip()
    assert "  " not in text and not any(character.isspace() and character != " " for character in text)


@few
@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5),
    st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]),  # csv quotes no \r where lines end in \n
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_captions_round_trip_through_csv(tmp_path, rows, dialect, encoding):
    path = tmp_path / "captions.csv"
    with path.open("w", newline="", encoding=encoding) as stream:
        writer = csv.writer(stream, lineterminator=dialect[0], quoting=dialect[1])
        writer.writerow(["file_name", "caption_1", "caption_2"])
        writer.writerows(rows)
    expected = [(name, f"caption_{k}", text) for name, *texts in rows for k, text in enumerate(texts, start=1)]
    assert [(c.file_name, c.column, c.raw_text) for c in read_captions(path)] == expected


@few
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_tables_round_trip_through_csv(tmp_path, rows):
    write_csv(tmp_path / "table.csv", ["a", "b"], rows)
    table = read_table(tmp_path / "table.csv", ["a", "b"], "step")
    assert list(table.itertuples(index=False, name=None)) == rows


@few
@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_captions_or_give_one_error_line(tmp_path, content):
    path = tmp_path / "captions.csv"
    path.write_bytes(b"file_name,caption_1\n" + content)
    try:
        assert all(caption.column == "caption_1" for caption in read_captions(path))
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1


# --- configuration ---------------------------------------------------------------------------------------

TREE = load_conf(ROOT / "conf.yaml").model_dump()
VALUES = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.dates(), st.binary(max_size=5)),
        st.sampled_from(["hard-NS", "disk", "1e-3", "../x", "0x_", "file", ".5", 0, 64, 128, 0.5]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def places_in(tree, place=()):
    """Yield the path to every key of a tree of dictionaries."""
    for key, value in tree.items():
        yield (*place, key)
        if isinstance(value, dict):
            yield from places_in(value, (*place, key))


PLACES = st.sampled_from(sorted(places_in(TREE)))


def changed(tree, place, value):
    """Return the tree with another value at a path."""
    key, *rest = place
    return tree | {key: changed(tree[key], rest, value) if rest else value}


@settings(few, max_examples=40)
@given(PLACES, VALUES, st.text(max_size=5) | st.none())
def test_any_configuration_is_accepted_or_gives_clear_error_lines(tmp_path, place, value, surplus_key):
    tree, path = changed(TREE, place, value), tmp_path / "conf.yaml"
    if surplus_key is not None:
        tree = changed(tree, (*place[:-1], surplus_key), value)
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    try:
        conf = load_conf(path)
    except UserError as error:
        assert all(line.startswith(f"{path}: ") and len(line) < 1000 for line in str(error).splitlines())
        return
    assert isinstance(conf, Conf)
    save_conf(conf, path)
    assert load_conf(path) == conf


@fewer
@given(st.text(max_size=40))
@example("param_conf.seed=[1")
@example("metrics=&a [*a]")
@example("a" + ".a" * 2000 + "=1")
def test_any_override_is_accepted_or_gives_one_error_line(override):
    try:
        assert isinstance(load_conf(ROOT / "conf.yaml", [override]), Conf)
    except UserError as error:
        assert len(str(error).splitlines()) == 1


@fewer
@given(st.binary(max_size=100))
@example(b"a: !!int x")
@example(b"a: !!timestamp x")
@example(b"a: 0x_")
@example(b"? [a]\n: b")
def test_any_bytes_are_read_as_a_configuration_or_give_clear_error_lines(tmp_path, content):
    path = tmp_path / "conf.yaml"
    path.write_bytes(f"base: {ROOT / 'conf.yaml'}\n".encode() + content)
    try:
        assert isinstance(load_conf(path), Conf)
    except UserError as error:
        assert all(path.name in line for line in str(error).splitlines())


# --- metrics ---------------------------------------------------------------------------------------------


@st.composite
def rankings(draw, most_items):
    """Scores (Q, I) from few values, so that there are ties, and relevance with an item for every query."""
    queries, items = draw(st.integers(1, 3)), draw(st.integers(1, most_items))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.integers(0, draw(st.integers(1, 6)), (queries, items)).astype(float)
    relevance = rng.random((queries, items)) < draw(st.floats(0, 1))
    relevance[np.arange(queries), rng.integers(0, items, queries)] = True
    return scores, relevance


@fewer
@given(rankings(most_items=6))
def test_metrics_average_over_all_orders_of_tied_items(ranking):
    scores, relevance = ranking
    by_query = []
    for row, relevant in zip(scores, relevance, strict=True):
        orders = [o for o in itertools.permutations(range(len(row))) if all(np.diff(row[list(o)]) <= 0)]
        by_query.append([reference.query_metrics(relevant[list(order)]) for order in orders])
    metrics = retrieval_metrics(scores, relevance)
    for name in ("mAP", "mAP10", "mAP16", "R1", "R5", "R10", "HR1", "HR5", "HR10"):
        expected = np.mean([np.mean([values[name] for values in orders]) for orders in by_query])
        assert metrics[name] == pytest.approx(expected, abs=1e-12)
    ranks = [np.mean([values["rank"] for values in orders]) for orders in by_query]
    assert metrics["MedR"] == pytest.approx(np.median(ranks), abs=1e-12)
    shared = [set(row[relevant]) & set(row[~relevant]) for row, relevant in zip(scores, relevance, strict=True)]
    assert metrics["tied_queries"] == sum(map(bool, shared))


@few
@given(rankings(most_items=30), st.randoms(use_true_random=False))
def test_metrics_ignore_the_scale_of_scores_and_the_order_of_items_and_queries(ranking, random):
    scores, relevance = ranking
    metrics = retrieval_metrics(scores, relevance)
    assert retrieval_metrics(np.exp(scores) * 1e-9 - 5, relevance) == metrics
    assert retrieval_metrics(scores.astype(np.float32), relevance) == metrics
    items, queries = list(range(scores.shape[1])), list(range(len(scores)))
    random.shuffle(items)
    random.shuffle(queries)
    order = np.ix_(queries, items)
    assert retrieval_metrics(scores[order], relevance[order]) == pytest.approx(metrics, abs=1e-12)
    assert all(-1e-12 < metrics[name] < 1 + 1e-12 for name in metrics if name[0] in "mRH")
    for name in ("R", "HR"):
        assert metrics[f"{name}1"] <= metrics[f"{name}5"] + 1e-12 <= metrics[f"{name}10"] + 2e-12
    assert 1 - 1e-12 < metrics["MedR"] < scores.shape[1] + 1e-12


# --- scores and loss -------------------------------------------------------------------------------------


@st.composite
def batches(draw, scales=(1.0,)):
    """Audio (N, T, E), text (N, W, E), fids and true lengths; some places are zero."""
    n, t, w, e = (draw(st.integers(low, 5)) for low in (1, 1, 1, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    scale = st.sampled_from(scales)
    audio = torch.randn(n, t, e, generator=generator) * draw(scale)
    text = torch.randn(n, w, e, generator=generator) * draw(scale)
    kept = draw(st.sampled_from([0.0, 0.5, 1.0]))
    audio, text = (x * (torch.rand(x.shape, generator=generator) <= kept) for x in (audio, text))
    audio_lens, text_lens = (torch.randint(1, most + 1, (n,), generator=generator) for most in (t, w))
    return audio, text, torch.randint(0, n, (n,), generator=generator), audio_lens, text_lens


SCALES = (1e-30, 1e-18, 1e-6, 1.0, 1e6, 1e15)
NAMES = st.sampled_from(sorted(STRATEGIES))
MASKS = st.tuples(st.booleans(), st.booleans())


def masked(masks, audio_lens, text_lens):
    """The lengths over which scores average."""
    return [lens if mask else None for mask, lens in zip(masks, (audio_lens, text_lens), strict=True)]


@few
@given(batches(SCALES), NAMES, MASKS, st.floats(1e-3, 10))
def test_loss_and_gradients_of_finite_input_are_finite(batch, name, masks, margin):
    audio, text, fids, *lens = batch
    audio.requires_grad_()
    text.requires_grad_()
    loss = TripletLoss(margin, name)(embedding_scores(audio, text, *masked(masks, *lens)), negative_mask(fids)).loss
    loss.backward()
    assert torch.isfinite(loss) and loss >= 0
    assert torch.isfinite(audio.grad).all() and torch.isfinite(text.grad).all()


@few
@given(batches(scales=(1e-30, 1e-12, 1e-6, 1.0)), NAMES, MASKS, st.integers(0, 3))
def test_loss_of_encoder_outputs_is_finite(batch, name, masks, surplus):
    """Outputs are a GRU's, within -1 and 1, each for four frames."""
    encoded, text, fids, audio_lens, text_lens = batch
    encoded = encoded.clamp(-1, 1).requires_grad_()
    text = torch.nn.functional.normalize(text, dim=-1)
    audio = torch.empty(len(encoded), 4 * encoded.shape[1] + surplus, 1)
    ids = torch.ones(text.shape[:2], dtype=torch.int64)
    pairs = Batch(audio, ids, fids, 4 * audio_lens, text_lens)
    scores = Score(mask_frames=masks[0], mask_words=masks[1])(encoded, text, pairs)
    terms = TripletLoss(0.5, name)(scores, negative_mask(fids))
    terms.loss.backward()
    assert torch.isfinite(terms.loss) and torch.isfinite(encoded.grad).all() and 0 <= terms.active <= 1


@few
@given(batches(), st.sampled_from(sorted(set(STRATEGIES) - {"random-NS"})), MASKS, st.randoms(use_true_random=False))
def test_the_order_of_a_batch_does_not_change_the_loss(batch, name, masks, random):
    audio, text, fids, *lens = batch
    # Make every item unique: between equal scores, the order would decide.
    audio = audio.double() + torch.rand(audio.shape, generator=torch.Generator().manual_seed(1)) + 0.1
    text = text.double() + torch.rand(text.shape, generator=torch.Generator().manual_seed(2)) + 0.1

    def loss(order):
        scores = embedding_scores(audio[order], text[order], *masked(masks, *(lengths[order] for lengths in lens)))
        return TripletLoss(0.5, name)(scores, negative_mask(fids[order])).loss.item()

    order = list(range(len(audio)))
    shuffled = random.sample(order, len(order))
    assert loss(shuffled) == pytest.approx(loss(order), abs=1e-9)


@few
@given(batches(), st.integers(1, 4), st.floats(-1e3, 1e3))
def test_padding_does_not_change_masked_scores(batch, surplus, filling):
    audio, text, _, audio_lens, text_lens = batch
    scores = score_matrix(audio, text, audio_lens, text_lens)
    for audio_padding, text_padding in ((surplus, 0), (0, surplus), (surplus, surplus)):
        longer = [
            torch.cat([embeds, torch.full((len(embeds), length, embeds.shape[2]), filling)], dim=1)
            for embeds, length in ((audio, audio_padding), (text, text_padding))
        ]
        torch.testing.assert_close(score_matrix(*longer, audio_lens, text_lens), scores)
