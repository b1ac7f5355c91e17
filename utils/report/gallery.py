"""Examples of queries and their results, to look at and to listen to."""

import numpy as np
import torch
from torch import Tensor

from utils.audio_input import audio_input
from utils.common.errors import UserError
from utils.common.steps import SCORING
from utils.conf.schema import Conf
from utils.dataset.paths import DatasetPaths
from utils.report import alignment
from utils.report.alignment import Alignment
from utils.report.numbers import choose_queries
from utils.report.page import Page, PlayableSplit
from utils.report.rankings import Ranking
from utils.trial.checkpoint import Trained

TOP = 5  # results shown of a query
QUERIES = 2  # shown of the best, of the typical and of the worst


class Gallery:
    """Examples of queries and their results.

    Args:
        best: the trial's model, on the CPU.
        conf: the trial's configuration.
        ranking: of the split data_conf.eval_data; its clips and captions must be those of the split's files.
        page: where pictures and clips are written.
    """

    def __init__(self, best: Trained, conf: Conf, ranking: Ranking, page: Page):
        self.best, self.page, name = best, page, conf.data_conf.eval_data
        self.split = PlayableSplit(name, conf, best.words, page)
        self.log_mel_hop = conf.audio_logmel.hop
        self.hop = audio_input(conf).seconds_per_frame(DatasetPaths(conf.data_conf.dataset), name)
        self.data = self.split.data
        if (self.data.fids, self.data.tids) != (ranking.queries.fids, ranking.queries.tids):
            raise UserError(f"{self.split.text_file}: these captions were not scored; run {SCORING} again")
        self.encoded: dict[int, Tensor] = {}  # (L, E) of the clips so far

    def groups(self, ranking: Ranking) -> dict[str, list[dict[str, object]]]:
        """Some of the best, the typical and the worst queries of a direction, as the template shows them."""
        margin = ranking.positive - ranking.negative
        chosen = choose_queries(ranking.values["first_rank"], margin, ranking.query_clips, QUERIES)
        return {name: [self._query(ranking, query) for query in queries] for name, queries in chosen.items()}

    def _query(self, ranking: Ranking, query: int) -> dict[str, object]:
        """A query with its first results; if none of them is relevant, the first relevant one follows."""
        (scores, relevant), query_clip = ranking.of_query(query), ranking.query_clips[query]
        order = np.argsort(-scores, kind="stable")
        ranks = list(range(1, 1 + len(order[:TOP])))
        if not relevant[order[:TOP]].any():
            ranks.append(1 + int(relevant[order].argmax()))
        items = [int(order[rank - 1]) for rank in ranks]
        pairs = [(item, query) if ranking.by_text else (query, item) for item in items]  # a clip and a caption
        alignments = [self.align(*pair) for pair in pairs]
        top = max(float(np.abs(shown.similarities).max()) for shown in alignments)  # the brightest colour of all
        low = -top if self.best.score.signed else 0.0
        results = [
            {
                "rank": rank,
                "score": float(scores[item]),
                "relevant": relevant[item],
                "clip": self.split.player(clip) if ranking.by_text else None,  # a caption's result
                "caption": self.split.captions[caption],
                "total": self._total(shown, caption),
                "picture": self.page.picture(alignment.draw(shown, top, low)),
            }
            for rank, item, (clip, caption), shown in zip(ranks, items, pairs, alignments, strict=True)
        ]
        captions = [query] if ranking.by_text else np.flatnonzero(ranking.item_clips == query_clip)
        return {
            "clip": self.split.player(query_clip),
            "captions": [self.split.captions[caption] for caption in captions],
            "first_rank": float(ranking.values["first_rank"][query]),
            "tied": ranking.values["tied"][query],
            "low": low,
            "top": top,
            "results": results,
        }

    @torch.no_grad()
    def align(self, clip: int, caption: int) -> Alignment:
        """Compare a clip's frames with a caption's words."""
        ids, audio = self.data.captions[caption], self.data.audio[clip]
        model, score = self.best.model, self.best.score
        if clip not in self.encoded:
            self.encoded[clip] = model.encode_audio(audio.unsqueeze(0))[0]
        embeds = score.word_embeds(model.encode_text(ids))  # (W, E)
        word_weights = score.word_weights(ids.unsqueeze(0), torch.tensor([len(ids)]), embeds)[0]
        by_frame = score.alignment(self.encoded[clip], len(audio), embeds, word_weights)  # (T, W)
        weights, hop = score.frame_weights(by_frame).numpy(), self.hop * len(audio) / len(by_frame)
        words = [self.best.words[word] for word in ids]
        log_mel, pooling = self.split.log_mel(clip), self.best.score.frames
        return Alignment(log_mel, by_frame.numpy(), weights, words, pooling, hop, self.log_mel_hop)

    def _total(self, shown: Alignment, caption: int) -> str:
        """How the words' scores add up to the caption's: their mean, or their sum weighted by IDF."""
        if self.best.score.idf_values is None:
            return f"({' + '.join(f'{score:.3f}' for score in shown.by_word)}) / {len(shown.words)}"
        idf = self.best.score.idf_values[self.data.captions[caption].numpy()]
        terms = zip(idf / idf.sum(), shown.by_word, strict=True)
        return " + ".join(f"{weight:.3f} · {score:.3f}" for weight, score in terms)
