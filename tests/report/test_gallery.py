import json

import pytest

from tests.helpers import matrix_of
from utils.common.errors import UserError
from utils.dataset.paths import DatasetPaths
from utils.report.gallery import Gallery
from utils.report.page import Page, clip_files
from utils.report.rankings import load_rankings
from utils.trial.checkpoint import load_model
from utils.trial.score_files import load_scores, word_scores_path
from utils.trial.trial import Trial

FID = "0123456789abcdef"


def write_info(folder, fid, name):
    clip = {"file_name": name, "seconds": 1.0, "sample_rate": 8000, "channels": 1, "sha256": "0" * 64}
    (folder / "audio_info.json").write_text(json.dumps({"evaluation": {"clips": {fid: clip}}}))
    return DatasetPaths(str(folder))


@pytest.mark.parametrize("name", ["../secret.wav", "/etc/secret.wav", "..", "", "a/b.wav", "passwd", None, 3])
def test_a_file_name_never_leads_out_of_the_splits_folder(tmp_path, name):
    paths = write_info(tmp_path, FID, name)
    with pytest.raises(UserError, match=r"is not the name of an audio file|leads out of the data set"):
        clip_files(paths, "evaluation", [FID])


def test_a_clip_id_never_leads_out_of_the_report(tmp_path):
    with pytest.raises(UserError, match="not as preprocessing"):
        clip_files(write_info(tmp_path, "../x", "a.wav"), "evaluation", ["../x"])
    with pytest.raises(UserError, match="does not list clip 00"):
        clip_files(write_info(tmp_path, FID, "a.wav"), "evaluation", ["00"])


def test_the_mean_of_an_alignment_map_is_the_score(report):
    trial, conf, _ = report
    best = load_model(trial / "checkpoint_best.pt")
    scores = matrix_of(load_scores(word_scores_path(trial, "evaluation"), best.epoch).scores)
    ranking = load_rankings(Trial(trial, conf), "evaluation", best.epoch)["text_to_audio"]
    gallery = Gallery(best, conf, ranking, Page(trial))
    for clip, caption in ((0, 0), (3, 7)):
        alignment = gallery.align(clip, caption)
        assert alignment.similarities.shape == (26, len(gallery.data.captions[caption]))
        assert alignment.similarities.mean() == pytest.approx(scores[clip, caption], abs=1e-6)
        assert alignment.by_word.mean() == pytest.approx(scores[clip, caption], abs=1e-6)
