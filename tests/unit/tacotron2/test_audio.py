"""audio_unit_tests: the front end, Griffin-Lim, augmentation and quality measures against known sounds."""

import math

import pytest
import torch
from smarttuner.core.errors import ConfigError, UsageError
from smarttuner.trainer.tacotron2.augmentation import augmented, noisy, shifted, sped, stretched
from smarttuner.trainer.tacotron2.front_end import log_mel, mel_basis, sound
from smarttuner.trainer.tacotron2.quality import (
    aligned,
    audio_quality_score,
    mel_spectral_distance,
    pesq_score,
    quality_metrics,
    stoi_score,
)
from smarttuner.trainer.tacotron2.settings import Front
from smarttuner.trainer.tacotron2.speech import Voice
from smarttuner.trainer.tacotron2.wav import read_wav, resampled, write_wav

pytestmark = pytest.mark.audio_unit_tests

SEED = Front()


def tone(hertz, seconds=1.0, rate=22050):
    return 0.4 * torch.sin(torch.arange(round(seconds * rate)) * 2 * math.pi * hertz / rate)


def pitch(samples, rate=22050):
    """The strongest frequency in Hz."""
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    spectrum = torch.fft.rfft(middle * torch.hann_window(len(middle))).abs()
    return float(spectrum.argmax()) * rate / len(middle)


@pytest.fixture(scope="module")
def speech():
    return Voice().say("the baker sells honey and warm bread")


def test_the_mel_bands_are_slaneys():
    """Centre, width and area of bands, from Slaney's formulas by hand: 1000 Hz is mel 15, 6400 Hz mel 42."""
    front = Front(n_fft=22050, win_length=1024, mel_fmin=0, mel_fmax=6400, n_mels=41)  # bins of 1 Hz, bands of 1 mel
    basis = mel_basis(front)
    assert basis[14].argmax() == 1000
    assert basis[0].argmax() == 67  # 200 / 3 Hz
    assert basis[27].argmax() == round(1000 * 6.4 ** (13 / 27))
    torch.testing.assert_close(basis.sum(1), torch.ones(41), rtol=1e-3, atol=1e-3)


def test_a_tone_is_in_its_band_and_frames_are_hops():
    mel = log_mel(tone(1000), SEED)
    assert mel.shape == (1 + 22050 // 256, 80)
    band = mel_basis(SEED)[:, round(1000 * 1024 / 22050)].argmax()
    assert (mel[5:-5].argmax(1) - band).abs().max() <= 1


def test_silence_is_the_floor():
    assert log_mel(torch.zeros(4000), SEED).unique().tolist() == pytest.approx([math.log(1e-5)])


@pytest.mark.parametrize(("changed", "other"), [("n_fft", 2048), ("hop_length", 128), ("win_length", 512), ("n_mels", 40)])
def test_each_size_of_the_front_end_acts(changed, other, speech):
    one, two = log_mel(speech, SEED), log_mel(speech, Front(**vars(SEED) | {changed: other}))
    assert one.shape != two.shape or not torch.allclose(one, two, atol=0.1)


@pytest.mark.parametrize(("changed", "other"), [("mel_fmin", 50.0), ("mel_fmax", 7600.0)])
def test_the_bounds_of_the_bands_act(changed, other, speech):
    one, two = log_mel(speech, SEED), log_mel(speech, Front(**vars(SEED) | {changed: other}))
    assert not torch.allclose(one, two, atol=0.1)


def test_a_band_above_half_of_the_rate_is_refused():
    with pytest.raises(ConfigError, match=r"mel_fmax 11025 Hz is above half"):
        Front(sample_rate=16000, mel_fmax=11025)
    Front(mel_fmax=11025)


def test_griffin_lim_gives_back_the_sound_and_always_the_same(speech):
    mel = log_mel(speech, SEED)
    made = sound(mel, SEED)
    assert torch.equal(made, sound(mel, SEED))
    assert mel_spectral_distance(mel, log_mel(made, SEED)) < 5.0
    assert audio_quality_score(speech, made, 22050) > 4.0


@pytest.mark.parametrize("rate", [16000, 10000, 44100])
def test_resampling_keeps_pitch_level_and_length(rate):
    made = resampled(tone(440), 22050, rate)
    assert len(made) == rate
    assert pitch(made, rate) == pytest.approx(440, abs=3)
    assert made.square().mean() == pytest.approx(float(tone(440).square().mean()), rel=0.02)


def test_resampling_removes_what_the_lower_rate_cannot_hold():
    assert resampled(tone(7000), 22050, 8000).square().mean() < 1e-5


def test_stretching_keeps_the_pitch_and_changes_the_length():
    made = stretched(tone(440), 1.1)
    assert len(made) == round(22050 / 1.1)
    assert pitch(made) == pytest.approx(440, abs=3)


def test_shifting_keeps_the_length_and_changes_the_pitch():
    made = shifted(tone(440), 22050, 2.0)
    assert len(made) == 22050
    assert pitch(made) == pytest.approx(440 * 2 ** (2 / 12), rel=0.01)


def test_speed_changes_both():
    made = sped(tone(440), 1.1)
    assert len(made) == pytest.approx(22050 / 1.1, abs=1)
    assert pitch(made) == pytest.approx(484, abs=3)


def test_noise_lies_so_far_below_the_signal():
    clean = tone(440)
    noise = noisy(clean, 30.0, torch.Generator().manual_seed(1)) - clean
    assert 10 * math.log10(float(clean.square().mean() / noise.square().mean())) == pytest.approx(30, abs=0.3)


@pytest.mark.parametrize("technique", ["time_stretch", "pitch_shift", "add_noise", "speed_perturbation"])
def test_each_technique_acts_keeps_the_level_and_follows_its_seed(technique, speech):
    made = [augmented(speech, 22050, [technique], torch.Generator().manual_seed(seed)) for seed in (0, 1, 2, 3, 4, 5, 0)]
    assert torch.equal(made[0], made[-1])
    changed = [one for one in made if len(one) != len(speech) or not torch.equal(one, speech)]
    assert changed
    for one in changed:
        assert one.square().mean().sqrt() / speech.square().mean().sqrt() == pytest.approx(1.0, abs=0.05)


def test_no_technique_leaves_the_sound():
    assert augmented(tone(440), 22050, [], torch.Generator()) is not None
    assert torch.equal(augmented(tone(440), 22050, [], torch.Generator().manual_seed(1)), tone(440))


def test_time_alignment_undoes_a_change_of_pace():
    mel = torch.randn(30, 20, generator=torch.Generator().manual_seed(2))
    slow = mel.repeat_interleave(2, 0)
    path = aligned(mel, slow)
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [29, 59]
    assert mel_spectral_distance(mel, slow) == pytest.approx(0.0, abs=1e-5)


def test_mel_distance_is_in_decibels():
    mel = torch.zeros(20, 80)
    assert mel_spectral_distance(mel, mel + math.log(10) / 20 * 6) == pytest.approx(6.0, rel=1e-3)


def test_measures_rank_the_same_above_the_spoiled(speech):
    spoiled = noisy(speech, 0.0, torch.Generator().manual_seed(1))
    assert audio_quality_score(speech, speech, 22050) > 4.5
    assert audio_quality_score(speech, spoiled, 22050) < 3.0
    assert pesq_score(speech, speech, 22050) > 4.0 > pesq_score(speech, spoiled, 22050) > 0
    assert stoi_score(speech, speech, SEED) > 0.8
    assert stoi_score(speech, speech, SEED) > stoi_score(speech, spoiled, SEED) + 0.1


def test_sounds_too_short_for_a_measure_have_none_of_it():
    short = tone(440, 0.2)
    wanted = ["mel_spectral_distance", "perceptual_evaluation_speech_quality", "short_time_objective_intelligibility"]
    assert list(quality_metrics(short, short, SEED, wanted)) == ["mel_spectral_distance"]


def test_wavs_come_back(tmp_path):
    write_wav(tmp_path / "a.wav", tone(440), 22050)
    samples, rate = read_wav(tmp_path / "a.wav")
    assert rate == 22050
    torch.testing.assert_close(samples, tone(440), rtol=0, atol=2 / 32768)


def test_what_is_no_wav_is_said_with_a_cure(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"ID3 and more")
    with pytest.raises(UsageError, match=r"a\.wav: is no PCM wav") as caught:
        read_wav(tmp_path / "a.wav")
    assert "ffmpeg" in caught.value.hint
    with pytest.raises(UsageError, match="is not there"):
        read_wav(tmp_path / "b.wav")
