"""The seed's keys about the job, each shown to act: daemon/config_acting.py names these tests."""

from dataclasses import replace

import pytest
import torch
from smarttuner.core.errors import ConfigError, UsageError
from smarttuner.daemon.cli.train import job_settings, settings_of
from smarttuner.daemon.config import load
from smarttuner.trainer.tacotron2.job import Job, make_repeatable, train
from smarttuner.trainer.tacotron2.machine import cpu_multiplies_bfloat16, joined, machine, optimizer_of, prepare_memory, processes
from smarttuner.trainer.tacotron2.settings import Recipe, recipe_from

SEED_FILE = "configs/enhanced-smart-tuner.yaml"
TINY = """
audio_processing: {{preprocessing: {{sample_rate: 8000, n_fft: 256, hop_length: 128, win_length: 256, n_mels: 8}}{sound}}}
search_space:
  mel_fmax: {{type: choice, choices: [4000], default: 4000}}
  encoder_embedding_dim: {{type: choice, choices: [16], default: 16}}
  decoder_rnn_dim: {{type: choice, choices: [16], default: 16}}
  batch_size: {{type: choice, choices: [4], default: 4}}
  steps: {{type: choice, choices: [4], default: 4}}
  evaluate_every: {{type: choice, choices: [2], default: 2}}
  synthesize_every: {{type: choice, choices: [0, 4], default: {listen}}}
{more}
"""


@pytest.fixture
def read(tmp_path):
    """The job's settings of a configuration's text."""

    def of(text, chosen=None):
        file = tmp_path / "c.yaml"
        file.write_text(text)
        return job_settings(load(file, {}).config, chosen or {})

    return of


@pytest.fixture
def trained(read, tones, tmp_path, monkeypatch):
    """Trains a tiny job with more written into its configuration; its settings and folder."""
    monkeypatch.setenv("SMART_TUNER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def of(more="", sound="", out="out", listen=0):
        settings = read(TINY.format(more=more, sound=sound, listen=listen))
        outcome = train(Job(settings, tones, tmp_path / out, out), {})
        return outcome, tmp_path / out / "checkpoints", settings

    return of


def resources(read, text):
    return read("resources: {" + text + "}").resources


def test_the_defaults_of_the_search_space_are_the_jobs_parameters(read):
    settings = read(
        "search_space:\n"
        "  learning_rate: {type: loguniform, low: 1e-5, high: 1e-2, default: 3e-3}\n"
        "  batch_size: {type: choice, choices: [8, 16], default: 8}\n"
        "  dropout_decoder: {type: uniform, low: 0.0, high: 0.6, default: 0.2}\n"
        "  mel_fmin: {type: uniform, low: 0.0, high: 50.0, default: 25}\n"
        "  mel_fmax: {type: choice, choices: [7600, 8000], default: 7600}\n"
    )
    recipe, front = settings.recipe, settings.front
    assert (recipe.learning_rate, recipe.batch_size, recipe.dropout_decoder) == (3e-3, 8, 0.2)
    assert (front.mel_fmin, front.mel_fmax) == (25.0, 7600.0)
    assert read("", {"learning_rate": "1e-4"}).recipe.learning_rate == 1e-4


def test_the_seeds_file_is_the_papers_model(pytestconfig, monkeypatch):
    settings = job_settings(load(pytestconfig.rootpath / SEED_FILE, {}).config, {})
    recipe = settings.recipe
    assert (recipe.encoder_embedding_dim, recipe.decoder_rnn_dim, recipe.attention_rnn_dim, recipe.batch_size) == (
        512,
        1024,
        1024,
        32,
    )
    assert (recipe.prenet_dim, recipe.attention_dim, recipe.postnet_dim, recipe.postnet_layers) == (256, 128, 512, 5)
    assert (recipe.learning_rate, recipe.weight_decay, recipe.grad_clip_thresh, recipe.dropout_decoder) == (1e-3, 1e-6, 1.0, 0.1)
    assert settings.techniques == ("time_stretch", "pitch_shift", "add_noise", "speed_perturbation")


def test_an_unknown_parameter_is_refused_with_a_guess(read):
    with pytest.raises(ConfigError, match="no parameter 'learning_rat'") as caught:
        read("search_space: {learning_rat: {type: uniform, low: 0, high: 1, default: 0.5}}")
    assert "learning_rate" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batch_size": 2.5}, "not a whole number"),
        ({"learning_rate": 0}, "not above 0"),
        ({"learning_rate": "fast"}, "not a number"),
        ({"dropout_decoder": 1}, "leaves nothing"),
        ({"attention_kernel": 30}, "no middle"),
        ({"encoder_embedding_dim": 15}, "odd"),
        ({"weight_decay": -1}, "not above 0"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        recipe_from(values)


def test_set_wants_a_key_and_a_value():
    with pytest.raises(UsageError, match="not KEY=VALUE"):
        settings_of(None, ["steps"], None)


def test_tensorboard_is_on_where_it_is_named(read):
    assert read("").board.folder is None
    board = read("monitoring: {platforms: {tensorboard: {log_dir: ./b, write_graph: false, write_images: false}}}").board
    assert (board.folder, board.graph, board.images) == ("./b", False, False)
    assert read("monitoring: {platforms: {tensorboard: {log_dir: ./b}}}").board.graph  # what they do: test_training.py


class Card:
    """What is asked of torch.cuda; there is none on the machine that tests."""

    def __init__(self):
        self.asked = []

    def set_device(self, device):
        self.asked.append("device")

    def set_per_process_memory_fraction(self, fraction, device):
        self.asked.append(fraction)

    def mem_get_info(self, device):
        self.asked.append("taken at once")
        return 1000, 2000


def test_what_a_gpu_may_be_taken_of(read):
    card = Card()
    prepare_memory(resources(read, "gpu: {memory_fraction: 0.25, allow_growth: true}"), torch.device("cpu"), card)
    assert card.asked == ["device", 0.25]
    prepare_memory(resources(read, "gpu: {memory_fraction: 0.5, allow_growth: false}"), torch.device("cpu"), card)
    assert card.asked[2:] == ["device", 0.5, "taken at once"]
    told = []
    four = "distributed: {backend: nccl, world_size: 4}, "
    assert processes(resources(read, four + "gpu: {max_gpus: 2}"), {}, 4, told.append) == 2
    told.clear()
    precise = machine(resources(read, "gpu: {mixed_precision: false}"), {}, told.append)
    assert (precise.precision, told) == ("float32", [])
    mixed = machine(resources(read, "gpu: {mixed_precision: true}"), {}, told.append)
    assert mixed.precision == "bfloat16" or "no bfloat16" in told[0]


def test_only_a_cpu_with_bfloat16_products_is_given_them(tmp_path):
    (tmp_path / "cpu").write_text("processor: 0\nflags\t\t: sse avx512_bf16 amx_bf16\n")
    assert cpu_multiplies_bfloat16(tmp_path / "cpu")
    (tmp_path / "cpu").write_text("flags\t\t: sse avx2\n")
    assert not cpu_multiplies_bfloat16(tmp_path / "cpu")
    assert not cpu_multiplies_bfloat16(tmp_path / "none")


def test_as_many_ranks_as_configured_and_possible(read):
    told = []
    four = resources(read, "distributed: {backend: nccl, world_size: 4, rank: 0}")
    assert processes(four, {}, 4, told.append) == 4
    assert not told
    assert processes(four, {}, 0, told.append) == 1
    assert "world_size is 4" in told[0]
    assert "0 GPUs" in told[0]
    assert processes(resources(read, "distributed: {backend: gloo, world_size: 2}"), {}, 0, told.append) == 2
    assert processes(four, {"RANK": "1"}, 4, told.append) == 1
    three = resources(read, "distributed: {world_size: 4, rank: 3}")
    assert joined(three, {"MASTER_ADDR": "here"}) == {"RANK": "3", "WORLD_SIZE": "4"}
    assert joined(three, {"MASTER_ADDR": "here", "RANK": "1"}) == joined(three, {}) == {}


def test_a_backend_that_this_torch_lacks_is_refused(read):
    told = []
    text = "distributed: {backend: nccl, world_size: 2, rank: 1}"
    with pytest.raises(ConfigError, match="backend mpi"):
        machine(replace(resources(read, text), backend="mpi"), {"RANK": "1", "WORLD_SIZE": "2"}, told.append)


def test_checkpoints_are_written_kept_and_packed_as_configured(trained):
    text = "resources: {{checkpointing: {{save_frequency: {0}, keep_n_checkpoints: {1}, compression: {2}, async_save: {3}}}}}"
    _, folder, settings = trained(text.format(1, 2, "zstd", "false"), out="a")
    assert not settings.saving.beside
    assert len(list(folder.glob("step-*"))) in (2, 3)  # the best is kept besides
    assert list(folder.glob("step-4/checkpoint.pt.zst"))
    _, folder, settings = trained(text.format(100, 9, "gzip", "true"), out="b")
    assert settings.saving.beside
    assert list(folder.glob("step-4/checkpoint.pt.gz"))
    assert not (folder / "step-1").exists()


def test_memory_is_saved_as_configured(read):
    saving = "memory_optimization: {gradient_checkpointing: %s, activation_checkpointing: %s, cpu_offload: %s}"
    one = resources(read, saving % ("true", "false", "false"))
    assert (one.gradient_checkpointing, one.activation_checkpointing, one.cpu_offload) == (True, False, False)
    two = resources(read, saving % ("false", "true", "true"))
    assert (two.gradient_checkpointing, two.activation_checkpointing, two.cpu_offload) == (False, True, True)


@pytest.mark.parametrize("offload", [True, False])
def test_an_optimizer_in_the_hosts_memory_makes_the_same_steps(offload):
    torch.manual_seed(1)
    model = torch.nn.Linear(4, 3)
    start = model.weight.detach().clone()
    optimizer = optimizer_of(model.parameters(), 0.1, 1e-6, offload)
    reference = torch.nn.Linear(4, 3)
    reference.load_state_dict(model.state_dict())
    plain = torch.optim.Adam(reference.parameters(), lr=0.1, weight_decay=1e-6, fused=True)
    for step in range(3):
        for one, its in ((model, optimizer), (reference, plain)):
            one.zero_grad()
            one(torch.full((2, 4), 1.0 + step)).square().sum().backward()
            its.step()
    assert torch.equal(model.weight, reference.weight)
    assert not torch.equal(model.weight, start)
    own = {id(one) for one in model.parameters()}
    assert any(id(one) in own for group in optimizer.param_groups for one in group["params"]) is not offload


def test_the_sound_is_as_configured(trained, read, tones):
    plain, _, settings = trained(out="a", listen=4)
    assert settings.front.sample_rate == 8000
    more = ", augmentation: {enable: true, techniques: [speed_perturbation]}, quality_metrics: [mel_spectral_distance]"
    varied, _, settings = trained(sound=more, out="b", listen=4)
    assert settings.techniques == ("speed_perturbation",)
    assert plain.values["train_loss"] != varied.values["train_loss"]
    assert "mel_spectral_distance" in varied.values
    assert "mel_spectral_distance" not in plain.values
    assert read(TINY.format(more="", sound=more.replace("true", "false"), listen=0)).techniques == ()
    other = replace(settings, front=replace(settings.front, sample_rate=16000))
    with pytest.raises(UsageError, match="8000 Hz, not 16000"):
        train(Job(other, tones, tones.parent / "c", "c"), {})


def test_seed_and_determinism_are_as_configured(read, tones, tmp_path):
    text = "experiment_tracking: {reproducibility: {seed: %d, deterministic: %s, benchmark_mode: %s}}"
    try:
        make_repeatable(Job(read(text % (7, "false", "true")), tones, tmp_path, "a"))
        drawn = torch.rand(1)
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark
        make_repeatable(Job(read(text % (7, "true", "false")), tones, tmp_path, "a"))
        assert torch.equal(drawn, torch.rand(1))
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_sizes_derive_from_two():
    small = Recipe().complete()
    assert (small.attention_rnn_dim, small.attention_dim, small.prenet_dim, small.postnet_dim, small.postnet_layers) == (
        128,
        64,
        64,
        128,
        3,
    )
    assert Recipe(attention_dim=48).complete().attention_dim == 48
