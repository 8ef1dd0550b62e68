"""Datasets: made offline, looked through, read, cached, split, batched."""

import json

import pytest
import torch
from smarttuner.core.errors import UsageError
from smarttuner.daemon.cli.main import run
from smarttuner.trainer.tacotron2.dataset import Feeder, MelCache, Order, load
from smarttuner.trainer.tacotron2.dataset_check import check
from smarttuner.trainer.tacotron2.settings import Front
from smarttuner.trainer.tacotron2.speech import synthesise
from smarttuner.trainer.tacotron2.text import tokens_of
from smarttuner.trainer.tacotron2.wav import write_wav


def test_a_synthetic_dataset_is_whole_checked_and_the_same_again(tmp_path, capsys):
    assert run(["dataset", "synth", str(tmp_path / "a"), "--count", "12"]) == 0
    assert run(["dataset", "check", str(tmp_path / "a")]) == 0
    assert "12 utterances" in capsys.readouterr().err
    about = json.loads((tmp_path / "a" / "synth.json").read_text())
    before = (tmp_path / "a" / "metadata.csv").stat().st_mtime_ns
    assert not synthesise(tmp_path / "a", 12, 1)
    assert (tmp_path / "a" / "metadata.csv").stat().st_mtime_ns == before
    texts = [line.split("|")[1] for line in (tmp_path / "a" / "metadata.csv").read_text().splitlines()]
    assert len(set(texts)) == 12
    assert all(3 <= len(text.split()) <= 5 for text in texts)
    assert about["count"] == 12
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_another_dataset_is_not_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty"):
        synthesise(tmp_path / "mine", 12, 1)
    synthesise(tmp_path / "a", 2, 1)
    with pytest.raises(UsageError, match=r"another synthetic dataset \(2 utterances, seed 1\)"):
        synthesise(tmp_path / "a", 3, 1)


def test_of_two_that_make_the_same_at_once_one_makes_it(tmp_path):
    made = []

    def meanwhile(done, count):
        if done == count and not made:
            made.append(False)
            made[0] = synthesise(tmp_path / "a", 2, 1)

    assert not synthesise(tmp_path / "a", 2, 1, meanwhile)
    assert made == [True]
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def broken(tiny, folder):
    """Every fault there is, each in its own line."""
    tiny.write(folder, 2)
    quiet, rate = torch.zeros(4000), 8000
    for name, samples, hertz in (
        ("rate", tiny.sound("a e i o u a e"), 16000),
        ("silent", quiet, rate),
        ("clipped", (tiny.sound("a e i") * 9).clamp(-1, 1), rate),
        ("long", tiny.sound("a e i").repeat(60), rate),
        ("short", tiny.sound("a")[:400], rate),
        ("empty", tiny.sound("a e i o"), rate),
        ("signs", tiny.sound("a e o i"), rate),
        ("bar", tiny.sound("a e o i"), rate),
    ):
        write_wav(folder / "wavs" / f"{name}.wav", samples, hertz)
    (folder / "wavs" / "mp3.wav").write_bytes(b"ID3")
    with (folder / "metadata.csv").open("a") as table:
        table.write("missing|a|a\nrate|a|a\nsilent|a|a\nclipped|a|a\nlong|a|a\nshort|a|a\nempty||\n")
        table.write("signs|5 €|5 €\nbar\nmp3|a|a\nT-000|a|a\n")
    return folder


def test_check_names_every_fault_with_its_line_and_a_cure(tiny, tmp_path, capsys):
    folder = broken(tiny, tmp_path / "d")
    report = check(folder, tiny.front)
    said = {int(one.place.rsplit(":", 1)[1]): one.what for one in report.findings}
    wanted = {
        3: "is not there",
        4: "16000 Hz, not 8000",
        5: "silent",
        6: "clipped",
        7: "over 15 s",
        8: "under 0.3 s",
        9: "no text",
        10: "5 €",
        11: "no |",
        12: "no PCM wav",
        13: "stands in line 1 too",
    }
    assert set(said) == set(wanted)
    for line, words in wanted.items():
        assert words in said[line]
    assert all(one.hint for one in report.findings)
    config = tmp_path / "c.yaml"
    sound = "audio_processing: {preprocessing: {sample_rate: 8000, n_fft: 256, win_length: 256}}\n"
    config.write_text(sound + "search_space: {mel_fmax: {type: choice, choices: [4000], default: 4000}}")
    assert run(["dataset", "check", str(folder), "--config", str(config), "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == len(wanted)


@pytest.mark.parametrize(
    ("line", "said"),
    [("gone|a|a", r"metadata\.csv:13: .*gone\.wav: is not there"), ("T-000|7 €|7 €", r"metadata\.csv:13: .*does not know: 7 €")],
)
def test_a_training_names_the_line_that_it_refuses(tiny, tones, line, said):
    with (tones / "metadata.csv").open("a") as table:
        table.write(line + "\n")
    with pytest.raises(UsageError, match=said) as caught:
        load(tones, MelCache(tiny.front, None), 1)
    assert "dataset check" in caught.value.hint


def test_a_folder_that_is_no_dataset_says_how_to_make_one(tiny, tmp_path):
    with pytest.raises(UsageError, match=r"no metadata\.csv") as caught:
        load(tmp_path, MelCache(tiny.front, None), 1)
    assert "dataset synth" in caught.value.hint


def test_mels_are_kept_by_content_and_front_end(tiny, tones, tmp_path):
    first = MelCache(tiny.front, tmp_path / "kept")
    one = load(tones, first, 1)
    second = MelCache(tiny.front, tmp_path / "kept")
    two = load(tones, second, 1)
    assert (first.made, second.made) == (12, 0)
    assert all(torch.equal(a.mel, b.mel) for a, b in zip(one.train, two.train, strict=True))
    write_wav(tones / "wavs" / "T-003.wav", tiny.sound("u u u"), 8000)
    third = MelCache(tiny.front, tmp_path / "kept")
    load(tones, third, 1)
    assert third.made == 1
    other = MelCache(Front(**vars(tiny.front) | {"mel_fmax": 3000.0}), tmp_path / "kept")
    load(tones, other, 1)
    assert other.made == 12


def test_a_cache_that_cannot_be_written_stops_nothing(tiny, tones, tmp_path):
    (tmp_path / "file").write_text("")
    assert len(load(tones, MelCache(tiny.front, tmp_path / "file" / "below"), 1).train) == 11


def test_mels_are_standardised_by_the_train_split(tiny, tones):
    splits = load(tones, MelCache(tiny.front, None), 1)
    together = torch.cat([one.mel for one in splits.train])
    torch.testing.assert_close(together.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(together.std(0), torch.ones(8), atol=1e-3, rtol=0)
    assert not {one.name for one in splits.train} & {one.name for one in splits.held_out}


def test_an_epoch_uses_every_utterance_once_in_batches_of_like_length():
    lengths = [(i * 37) % 400 for i in range(160)]
    order = Order(lengths, 16, seed=1)
    batches = [order.batch(step) for step in range(10)]
    assert sorted(one for batch in batches for one in batch) == list(range(160))
    spread = sum(max(lengths[i] for i in one) - min(lengths[i] for i in one) for one in batches) / 10
    assert spread < 80  # of 400
    again = Order(lengths, 16, seed=1)
    assert again.batch(13) == order.batch(13)
    assert order.batch(13) != order.batch(3)


def test_ranks_share_a_batch_without_overlap(tiny, tones):
    splits = load(tones, MelCache(tiny.front, None), 1)
    order = Order([len(one.mel) for one in splits.train], 4, seed=1)
    whole = Feeder(splits, tiny.front, (), order, (0, 1)).batch(0)
    shares = [Feeder(splits, tiny.front, (), order, (rank, 2)).batch(0) for rank in (0, 1)]
    assert sum(len(one.tokens) for one in shares) == len(whole.tokens)
    assert sum(int(one.frame_counts.sum()) for one in shares) == int(whole.frame_counts.sum())


def test_augmentation_changes_the_train_split_only_and_is_the_same_when_repeated(tiny, tones):
    splits = load(tones, MelCache(tiny.front, None), 1)
    order = Order([len(one.mel) for one in splits.train], 8, seed=1)
    plain, varied, again = (
        Feeder(splits, tiny.front, with_, order, (0, 1)) for with_ in ((), ("speed_perturbation",), ("speed_perturbation",))
    )
    assert not torch.equal(plain.batch(0).frame_counts, varied.batch(0).frame_counts)
    assert torch.equal(varied.batch(0).mels, again.batch(0).mels)
    assert not torch.equal(varied.batch(0).frame_counts, varied.batch(order.batches).frame_counts)


def test_text_is_cleaned_and_ends():
    assert torch.equal(tokens_of("A  Dog"), tokens_of("a dog"))
    with pytest.raises(UsageError, match="does not know: 4 %"):
        tokens_of("4 %")
    with pytest.raises(UsageError, match="no text"):
        tokens_of("  ")
