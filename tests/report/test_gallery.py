import shutil

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from models.audio_encoders import FeatureEncoder
from models.core import CRNNWordModel
from tests.helpers import RATE, matrix_of, write_features
from utils.common.errors import UserError
from utils.common.io import write_json
from utils.dataset.log_mel import log_mel_spectrogram
from utils.dataset.paths import DatasetPaths
from utils.report.alignment import draw
from utils.report.gallery import Gallery
from utils.report.page import Page, clip_files
from utils.report.rankings import load_rankings
from utils.trial.checkpoint import load_model
from utils.trial.score_files import load_scores, word_scores_path
from utils.trial.trial import Trial


def write_info(folder, name):
    clip = {"file_name": name, "seconds": 1.0, "sample_rate": 8000, "channels": 1, "sha256": "0" * 64}
    write_json(folder / "audio_info.json", {"evaluation": {"clips": {"0123456789abcdef": clip}}})
    return DatasetPaths(str(folder))


def test_a_clip_that_is_not_listed_or_leads_out_of_the_splits_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not list clip 00"):
        clip_files(write_info(tmp_path, "a.wav"), "evaluation", ["00"])
    for name in ("../secret.wav", "a/b.wav", "", "passwd", None):
        with pytest.raises(UserError, match=r"is not the name of an audio file|leads out of the data set"):
            clip_files(write_info(tmp_path, name), "evaluation", ["0123456789abcdef"])


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


def test_features_are_aligned_below_a_log_mel_made_from_the_sound(report, tmp_path):
    """Each on its own frames, over the seconds of the sound."""
    trial, conf, _ = report
    best, shared = load_model(trial / "checkpoint_best.pt"), DatasetPaths(conf.data_conf.dataset)
    shutil.copytree(shared.root, tmp_path / "data", ignore=shutil.ignore_patterns("*_audio_logmels.hdf5"))
    data = conf.data_conf.model_copy(update={"audio": "features"})
    paths, ranking = DatasetPaths(str(tmp_path / "data")), load_rankings(Trial(trial, conf), "evaluation", best.epoch)
    rng = np.random.default_rng(0)
    features = {fid: rng.random((2, 300), np.float32) for fid in ranking["text_to_audio"].queries.fids}
    write_features(paths.audio_features("evaluation"), features, seconds_per_frame=0.25)
    encoder = conf.CRNNWordModel.audio_enc.model_copy(update={"name": "features"})
    model = conf.CRNNWordModel.model_copy(update={"audio_enc": encoder})
    data = data.model_copy(update={"dataset": paths.root})
    conf = conf.model_copy(update={"data_conf": data, "CRNNWordModel": model})
    best = best._replace(model=CRNNWordModel(FeatureEncoder(300), best.model.text_enc).eval())
    gallery = Gallery(best, conf, ranking["text_to_audio"], Page(tmp_path))
    alignment, file = gallery.align(1, 3), gallery.split.files[1]
    sound, _ = soundfile.read(file, dtype="float32")
    np.testing.assert_array_equal(alignment.log_mel, log_mel_spectrogram(sound, RATE, conf.audio_logmel.config))
    assert alignment.similarities.shape == (2, len(alignment.words)) and alignment.hop == 0.25
    embeddings = F.normalize(torch.from_numpy(features[gallery.data.fids[1]]), dim=-1)
    words = best.model.text_branch(gallery.data.captions[3][None])[0]
    np.testing.assert_allclose(alignment.similarities, (embeddings @ words.T).clamp(min=0), atol=1e-6)
    drawn = draw(alignment, 1.0)
    assert "Log-mel of 0.5 s" in drawn.alt
