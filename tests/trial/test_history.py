from tests.helpers import ROOT
from utils.conf.reading import load_conf
from utils.trial.history import collapse_warning


def test_collapse_is_said_aloud():
    conf = load_conf(ROOT / "conf.yaml", ["criteria.TripletLoss.sampling=hard-NS"])
    warning = collapse_warning({"train_loss": 1.0004, "score_std": 1e-6}, conf)
    assert "hard-NS" in warning and "1.0004" in warning and "semi-hard-NS avoids it" in warning
    assert collapse_warning({"train_loss": 0.99, "score_std": 0.05}, conf) is None  # semi-hard's loss, while it learns
    assert collapse_warning({"train_loss": 0.5, "score_std": 1e-6}, conf) is None
    assert collapse_warning({"score_std": 1e-6}, conf) is None  # epoch 0


def test_collapse_is_told_from_the_losses_that_can_show_it():
    collapsed = {"train_loss": 1.0, "score_std": 1e-6}
    assert "word2vec" in collapse_warning(collapsed, load_conf(ROOT / "conf.yaml"))  # not by hard negatives
    assert collapse_warning(collapsed, load_conf(ROOT / "conf.yaml", ["param_conf.criterion=InfoNCE"])) is None
