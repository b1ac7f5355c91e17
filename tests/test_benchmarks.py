"""The restated published code gives the same numbers as our code, and the benchmarks run."""

import itertools
import json
import re
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
import soundfile
import torch
from scipy.sparse import csr_array
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bench, commands, gpu, growth, published
from benchmarks.bare import SparseRows, paper_settings
from benchmarks.inputs import step_flops, synthetic_batch, synthetic_split
from models.audio_encoders import CRNNEncoder
from models.core import CRNNWordModel
from models.text_encoders import WordEncoder
from tests.helpers import ROOT, SEARCH, call, matrix_of, random_model, random_split, state_of
from utils.conf.load import load_conf
from utils.criterion_utils import TripletLoss, negative_mask
from utils.data_utils import Batch
from utils.dataset.log_mel import read_log_mel
from utils.dataset.log_mel_config import PUBLISHED
from utils.evaluation_utils import score_split
from utils.metric_utils import both_directions
from utils.model_utils import train_step
from utils.sampling_utils import STRATEGIES


@pytest.fixture
def models():
    """The published model and ours with the same state dict, without dropout."""
    ours = random_model()
    theirs = published.Model(ours.state_dict())
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return theirs, ours


@pytest.fixture
def batch():
    """Six pairs of unequal lengths; two share a clip."""
    generator = torch.Generator().manual_seed(1)
    audio_lens, text_lens = torch.tensor([30, 21, 30, 26, 17, 28]), torch.tensor([3, 5, 2, 4, 5, 3])
    audio, text = torch.randn(6, 30, 64, generator=generator) - 4, torch.randint(1, 12, (6, 5), generator=generator)
    audio[2] = audio[0]
    audio[torch.arange(30) >= audio_lens[:, None]] = 0
    text[torch.arange(5) >= text_lens[:, None]] = 0
    return Batch(audio, text, torch.tensor([0, 1, 0, 2, 3, 4]), audio_lens, text_lens)


def test_published_random_negatives_average_to_the_full_batch(make_batch):
    audio, text, fids, _, _ = make_batch(0)
    draws = [published.triplet_loss(audio, text, fids, "random-NS").item() for _ in range(400)]
    expected = published.triplet_loss(audio, text, fids, "full-batch-NS").item()
    assert abs(np.mean(draws) - expected) < 5 * np.std(draws) / np.sqrt(400)


@pytest.mark.parametrize("name", ["full-batch-NS", "semi-hard-NS", "hard-text-NS"])
def test_a_published_training_step_equals_ours(models, batch, name):
    # eps far above the gradients' rounding: with its default, Adam's first step is close to their signs
    theirs, ours = (torch.optim.Adam(model.audio_enc.parameters(), lr=1e-3, eps=1e-3) for model in models)
    loss = published.training_step(models[0], batch, name, theirs)
    state = replace(state_of(models[1], TripletLoss(0.5, name)), optimizer=ours)
    assert loss == pytest.approx(train_step(state, batch, negative_mask(batch.clips)).loss.item(), abs=1e-6)
    weights = models[1].state_dict()
    for key, value in models[0].state_dict().items():
        close = {"atol": 2e-6, "rtol": 1e-4, "msg": lambda text, key=key: f"{key}: {text}"}
        torch.testing.assert_close(value, weights[key], **close)


def test_published_scores_equal_ours(models):
    split = random_split()
    for model in models:
        model.train(False)
    scores = published.score_split(models[0], split.audio, split.captions)
    np.testing.assert_allclose(scores, matrix_of(score_split(models[1], split).cross), atol=1e-5)


def test_published_metrics_equal_ours():
    scores, caption_clips = np.random.default_rng(0).random((30, 150)), np.repeat(np.arange(30), 5)
    ours = both_directions(scores, caption_clips)
    for direction, values in published.both_directions(scores, caption_clips).items():
        assert values == pytest.approx({name: ours[direction][name] for name in values})


def test_published_log_mels_equal_ours(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).normal(0, 0.1, 22050), 44100)
    published.extract_log_mels({"x": tmp_path / "x.wav"}, tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "x.hdf5") as theirs:
        assert theirs["x"].dtype == np.float32
        np.testing.assert_allclose(theirs["x"][()], read_log_mel(tmp_path / "x.wav", PUBLISHED), atol=2e-3)


def test_a_published_epoch_trains_once_and_evaluates_without_training(models):
    model, before = models[0], {key: value.clone() for key, value in models[0].state_dict().items()}
    published.epoch(model, [random_split()] * 3, "random-NS", 18, torch.optim.Adam(model.audio_enc.parameters()))
    assert not torch.equal(model.state_dict()["audio_enc.cnn.1.weight"], before["audio_enc.cnn.1.weight"])
    assert model.state_dict()["audio_enc.cnn.0.num_batches_tracked"] == 1


def test_step_flops_equal_the_count_of_pytorch():
    batch = synthetic_batch(2, 40, 3)
    torch.manual_seed(0)
    model = CRNNWordModel(CRNNEncoder(64, 300), WordEncoder(torch.randn(4400, 300))).train(False)
    with FlopCounterMode(display=False) as counter:
        audio, text = model(batch.audio, batch.text)
        torch.mm(audio.flatten(0, 1), text.flatten(0, 1).T)
    assert step_flops(2, 40, 3) == 3 * counter.get_total_flops()


def test_exponent_of_a_power_law():
    assert growth.exponent([1, 10, 100], [3, 300, 30_000]) == pytest.approx(2)


@pytest.fixture
def printed_by(monkeypatch, capsys):
    """printed_by(benchmark, argument, ...): what it prints, without its child processes, which import for seconds."""

    def printed_by(benchmark, *arguments):
        monkeypatch.setattr(sys, "argv", [benchmark.__name__, *arguments])
        benchmark.main()
        return capsys.readouterr().out

    for benchmark in (bench, growth):
        monkeypatch.setattr(benchmark, "isolated", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(bench, "peak_memory", itertools.count(1).__next__)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which they set
    return printed_by


def test_bench_prints_every_row(printed_by):
    out = printed_by(bench, "--quick")
    rows = [
        r"log-mels of 8 clips, wav to HDF5",
        r"log-mels of 8 clips, a second run",
        r"training step.*, float32",
        r"training step.*, bfloat16",
        r"loss of hard-audio-NS.*words",
        r"loss of easy-audio-NS.*words",
        r"loss of hard-audio-NS.*memory",
        r"epoch with its evaluation.*, float32",
        r"epoch with its evaluation.*, bfloat16",
        r"epoch on 30 pairs.*two threads.*clip level",
        r"120 such epochs",
        r"peak memory",
        r"epoch on 30 pairs.*frame level",
        r"120 such epochs",
        r"peak memory",
        r"scoring.*with encoding \(theirs extrapolated",
        r"scoring.*after encoding \(theirs extrapolated",
        r"scoring.*: peak memory",
        r"metrics of 20 x 100 by word scores, both directions",
        r"metrics of 30 x 150 by word scores, both directions",
        r"metrics of.*: peak memory",
        r"data loading",
    ]
    lines = [line for line in out.splitlines() if line.startswith("|")][2:]
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines, strict=True):
        assert re.match(rf"\| {row}.*\|.*\|.*\d.*\|.*\| +[<>]= [\d.]+( s|x| GB| %| min), (met|missed) +\|$", line), line
    assert len(re.findall(r"GFLOP/s, +[\d.]+% of the measured peak", out)) == 3


def test_growth_prints_a_row_per_size(printed_by):
    out = printed_by(growth, "--clips", "10", "20")
    for clips in (10, 20):
        assert re.search(rf"^\| +{clips} \| +{5 * clips} \|(.*s \|.* GB \|){{2}}$", out, re.M)
    assert re.search(r"^\| +growth \|.*~ clips\^", out, re.M)


def test_search_prints_its_row_by_child_processes():
    out = call("-m", "benchmarks.search", "--clips", "10")
    assert re.search(r"^\| +10 \|( +[\d.e-]+ (m?s|GB) \|){8}$", out, re.M), out


def test_commands_have_their_row(monkeypatch, capsys):
    monkeypatch.setattr(commands, "COMMANDS", ["main.py"])
    monkeypatch.setattr(commands, "CLIPS", 10)
    monkeypatch.setattr(sys, "argv", ["commands.py", "--rounds", "1"])
    commands.main()
    rows = re.findall(r"^\| (\S+) .*\| +[\d.e-]+ m?s \|", capsys.readouterr().out, re.M)
    assert rows == ["main.py", "main.py", SEARCH, "import"]


# --- benchmarks/gpu.py -----------------------------------------------------------------------------------

# Runs gpu.py as if only torch, numpy, h5py and their requirements were installed
BARE = """
import importlib.metadata, re, runpy, sys
keep, wanted = set(), ["torch", "numpy", "h5py"]
while wanted:
    name = wanted.pop()
    keep.add(re.sub("[-_.]+", "-", name).lower())
    try:
        needs = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        continue
    names = [re.match(r"[\\w.-]+", need)[0] for need in needs if "extra ==" not in need]
    wanted += [need for need in names if re.sub("[-_.]+", "-", need).lower() not in keep]
for module, packages in importlib.metadata.packages_distributions().items():
    if module not in sys.modules and not any(re.sub("[-_.]+", "-", name).lower() in keep for name in packages):
        sys.modules[module] = None
for module in ("librosa", "soundfile", "pydantic", "pandas", "scipy", "tqdm", "yaml"):
    assert sys.modules[module] is None
sys.argv = ["benchmarks/gpu.py", *sys.argv[1:]]
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


def bare_gpu(*arguments):
    """Run gpu.py in its reduced form on a bare machine. Returns its lines to read, and the JSON after each."""
    lines = call("-c", BARE, "--quick", *arguments).splitlines()
    return lines[::2], [json.loads(line) for line in lines[1::2]]


def test_gpu_benchmark_needs_only_torch_numpy_and_h5py():
    rows = ["random-NS:bfloat16", "hard-audio-NS:float32", "hard-text-NS:TF32", "InfoNCE:TF32"]
    lines, (machine, *figures) = bare_gpu("--rows", *rows)
    assert machine["device"] == "CPU" and machine["torch"] == torch.__version__
    assert all(rate > 0 for rate in machine["peaks"].values()) and len(machine["peaks"]) == 4
    assert [values["row"] for values in figures] == rows
    for line, values in zip(lines[1:], figures, strict=True):
        assert line.startswith(values["row"]) and "(" in line and len(values["train_s"]) == 2
        assert min(*values["train_s"], *values["evaluate_s"], values["epoch_tflop"], values["epoch_gbyte"]) > 0
        bound = 0.5 if "bfloat16" in values["row"] else 5e-3
        assert values["loss_error"] < 0.01 and 0 < values["gradient_error"] < bound


def test_gpu_benchmark_trains_from_files_on_a_bare_machine():
    (line,), (figures,) = bare_gpu("--clotho", "--rows", "semi-hard-NS:bfloat16")
    assert re.match(r"CPU, semi-hard-NS:bfloat16: 2 epochs in [\d.]+ s; ", line)
    assert (len(figures["train_s"]), len(figures["evaluate_s"])) == (2, 3)
    assert figures["wall_s"] > sum(figures["train_s"] + figures["evaluate_s"])


def test_gpu_benchmark_lists_rows_that_it_has_no_time_for():
    out = call("benchmarks/gpu.py", "--quick", "--seconds", "0", "--rows", "random-NS:TF32", "InfoNCE:float32:compile")
    assert out.splitlines()[2].endswith("left out: random-NS:TF32 InfoNCE:float32:compile")


def test_gpu_benchmark_rows_cover_every_objective():
    assert [str(gpu.Row.of(f"{name}:TF32:compile")) for name in gpu.OBJECTIVES] == [
        f"{name}:TF32:compile" for name in [*STRATEGIES, "InfoNCE"]
    ]
    for text in ("random:TF32", "random-NS:float16", "random-NS", "random-NS:TF32:fast"):
        with pytest.raises(ValueError):
            gpu.Row.of(text)


@pytest.mark.parametrize("objective", ["hard-NS", "InfoNCE"])
def test_bare_settings_equal_conf_yaml(objective):
    triplets = objective != "InfoNCE"
    setting = "criteria.TripletLoss.sampling=hard-NS" if triplets else "param_conf.criterion=InfoNCE"
    overrides = [setting, "param_conf.precision=bfloat16", "param_conf.tf32=true", "param_conf.compile=true"]
    settings = paper_settings(objective, "bfloat16", True, True).model_dump()
    for name, section in load_conf(ROOT / "conf.yaml", overrides).model_dump().items():
        if name not in ("word2vec_embeddings", "sweep_conf"):  # lists over several lines, and words
            assert settings[name] == section


def test_bare_sparse_matrix_equals_scipys():
    rng = np.random.default_rng(0)
    rows, columns, values = np.repeat([0, 2, 3], 6), rng.integers(0, 5, 18), rng.random(18, dtype=np.float32)
    ours, theirs = (kind((values, (rows, columns)), shape=(4, 5)) for kind in (SparseRows, csr_array))
    table, picked = rng.random((5, 3), dtype=np.float32), np.array([3, 0, 1, 3])
    for bare, scipys in ((ours, theirs), (ours[picked], theirs[picked]), (ours[1:3], theirs[1:3])):
        np.testing.assert_allclose(bare @ table, scipys @ table, rtol=1e-6)
        np.testing.assert_array_equal(bare.indptr, scipys.indptr)
        np.testing.assert_array_equal(bare.indices, scipys.indices)
        np.testing.assert_allclose(bare.data, scipys.data, rtol=1e-6)


def test_gpu_benchmark_counts_padding_and_clips_share_no_memory():
    split = gpu.own_frames(synthetic_split(5, (20, 30), 2), 0)
    assert len({log_mel.untyped_storage().data_ptr() for log_mel in split.audio}) == 5
    sizes = gpu.padded(split, 4)
    assert [pairs for pairs, _, _ in sizes] == [4, 4, 2]
    assert sum(pairs * frames for pairs, frames, _ in sizes) > 2 * sum(split.frames)
    assert {frames for _, frames, _ in sizes} <= set(split.frames)


def test_traffic_counts_bytes_that_operators_read_and_write():
    a, b = torch.zeros(3, 4), torch.zeros(4, 5)
    with gpu.Traffic() as traffic:
        (a @ b.T.T).relu()
    assert traffic.bytes == 4 * (12 + 20 + 15) + 4 * (15 + 15)
