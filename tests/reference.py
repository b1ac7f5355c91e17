"""The definitions of losses and metrics as plain loops, which the tests compare our code with.

The strategies come from benchmarks/published.py, which shares no computation with our code. S (N, N): scores of clips
(rows) with captions, T of captions with captions, A of clips with clips; negatives (N, N) bool.
"""

import math

import numpy as np
import torch

from benchmarks.published import AnchorScores, choose


def picks(strategy, scores, i, others, draws=None):
    """Audio and text negatives of anchor i, from scores S, T, A as arrays; random-NS picks the highest draws."""
    S, T, A = scores
    if strategy == "random-NS":
        return tuple([max(others, key=lambda j, draw=draw: draw[i, j])] for draw in draws)
    rows = AnchorScores(
        positive=lambda: S[i, i],
        audio=lambda: S[others, i],
        text=lambda: S[i, others],
        audio_audio=lambda: A[i, others],
        text_text=lambda: T[i, others],
    )
    return choose(strategy, others, rows)


def triplet_loss(strategy, scores, negatives, margin=0.5, generator=None):
    """Mean loss over anchors with negatives, and the share of triplets that violate the margin."""
    S, draws = scores[0], None
    if strategy == "random-NS":
        draws = [torch.rand(S.shape, generator=generator).numpy() for _ in range(2)]
    losses, triplets = [], []
    for i, others in anchors(negatives):
        audio, text = picks(strategy, scores, i, others, draws)
        audio = [max(0.0, S[j, i] - S[i, i] + margin) for j in audio]
        text = [max(0.0, S[i, k] - S[i, i] + margin) for k in text]
        losses.append(np.mean(audio) + np.mean(text))
        triplets += audio + text
    return np.mean(losses), np.mean([term > 0 for term in triplets])


def info_nce(S, negatives, temperature=0.07):
    """Mean over anchors with negatives of the mean cross-entropy of both directions."""
    losses = []
    for i, others in anchors(negatives):
        texts = [S[i][k] / temperature for k in [i, *others]]
        audios = [S[j][i] / temperature for j in [i, *others]]
        losses.append(sum(math.log(sum(map(math.exp, row))) - row[0] for row in (texts, audios)) / 2)
    return np.mean(losses)


def anchors(negatives):
    """Yield each anchor that has negatives, with their indices."""
    for i, row in enumerate(negatives):
        if others := [j for j, negative in enumerate(row) if negative]:
            yield i, others


def query_metrics(relevant):
    """Metrics of one query without ties; relevant (I,) bool, best first."""
    ranks = [rank for rank, hit in enumerate(relevant, start=1) if hit]
    precisions = [k / rank for k, rank in enumerate(ranks, start=1)]
    values = {"mAP": sum(precisions) / len(ranks), "rank": ranks[0]}
    for k in (10, 16):
        first = [precision for precision, rank in zip(precisions, ranks, strict=True) if rank <= k]
        values[f"mAP{k}"] = sum(first) / min(len(ranks), k)
    for k in (1, 5, 10):
        values[f"R{k}"] = sum(rank <= k for rank in ranks) / len(ranks)
        values[f"HR{k}"] = float(ranks[0] <= k)
    return values


def metrics(scores, relevance):
    """Metrics of scores (Q, I) without ties: means over queries; MedR is a median."""
    queries = [
        query_metrics(relevant[np.argsort(-row, kind="stable")])
        for row, relevant in zip(scores, relevance, strict=True)
    ]
    means = {name: np.mean([values[name] for values in queries]) for name in queries[0] if name != "rank"}
    return means | {"MedR": np.median([values["rank"] for values in queries])}
