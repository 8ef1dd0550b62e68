"""Real trainings by Lightning, watched and steered; the daemon's side is done by hand (see conftest)."""

import pathlib

import pytest
import torch

pl = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint  # noqa: E402
from smarttuner.trainer.adapters.lightning import SmartTunerCallback, SmartTunerLogger, judged  # noqa: E402
from smarttuner.trainer.parts import on_cpu  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries warn each other of is not ours


class Module(pl.LightningModule):
    """A regression with a schedule of its own."""

    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"width": 4})
        self.line = torch.nn.Linear(4, 1)
        self.used = []

    def training_step(self, batch, index):
        loss = (self.line(torch.nn.functional.dropout(batch[0], 0.1)) - batch[1]).square().mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val_loss", (self.line(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        optimizer.register_step_pre_hook(lambda one, *_: self.used.append(one.param_groups[0]["lr"]))
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)}


class Orders(pl.Callback):
    """Places orders before the batches that are named."""

    def __init__(self, steering, host_of, orders):
        self.steering, self.host_of, self.orders, self.host = steering, host_of, orders, None

    def on_train_batch_start(self, trainer, module, batch, index):
        if self.host is None:
            self.host = self.host_of(self.steering._run._line.spool.path)
        for action, params in self.orders.get(trainer.global_step, ()):
            self.host.order(action, action, **params)


def train(folder, *callbacks, logger=False, epochs=3, module=None):
    pl.seed_everything(3, verbose=False)
    module = Module() if module is None else module
    data = torch.utils.data.TensorDataset(torch.randn(16, 4), torch.randn(16, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=logger,
        callbacks=list(callbacks),
        default_root_dir=str(folder),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
    )
    trainer.fit(module, loader, loader)
    return trainer, module


def test_weights_are_bit_identical_watched_or_not(tmp_path, state):
    alone = on_cpu(train(tmp_path)[1].state_dict())
    for mode in ("observe", "act"):
        early = EarlyStopping("val_loss", patience=10)
        watched = train(tmp_path, SmartTunerCallback("r", mode=mode), early)[1].state_dict()
        assert all(torch.equal(alone[name], watched[name]) for name in alone)


def test_decisions_go_through_lightnings_own_doors(tmp_path, state, host_of):
    steering = SmartTunerCallback()
    logger = SmartTunerLogger("named", group="g")
    lr = {"intent": {"multiplier": 0.5, "hold": None, "revision": 1}, "factor": 0.5}
    orders = Orders(
        steering, host_of, {1: [("scale-lr", lr)], 2: [("checkpoint", {})], 6: [("restore", {"to": "last"})], 9: [("prune", {})]}
    )
    trainer, module = train(tmp_path, EarlyStopping("val_loss", mode="min", patience=9), orders, steering, logger=logger, epochs=5)
    host = orders.host.read()
    answers = {ack.id: (ack.status, ack.step, ack.reason) for ack in host.acks}
    assert {name: answer[0] for name, answer in answers.items()} == dict.fromkeys(
        ("scale-lr", "checkpoint", "restore", "prune"), "applied"
    ), answers
    assert trainer.global_step == 10
    assert module.used == [0.1, 0.1] + [0.05] * 2 + [0.025] * 4 + [0.0125] * 2
    saved = torch.load(state / "checkpoints" / "named" / "step-2" / "checkpoint.pt", weights_only=True)
    assert (saved["global_step"], saved["optimizer_states"][0]["param_groups"][0]["lr"]) == (3, 0.1)
    started, *_, ended = host.runs
    assert (started.run, started.group, started.started.monitor, started.started.goal) == ("named", "g", "val_loss", "min")
    assert started.started.config == {"width": 4}
    assert ended.state == "pruned"
    assert {"train_loss", "val_loss", "lr", "lr_effective"} <= {row[0] for row in host.points}


class Averaged(Module):
    """Notes what is validated: values, and the weights that were in the module's place."""

    def on_validation_epoch_start(self):
        self.seen = [*getattr(self, "seen", ()), (on_cpu(self.state_dict()), self.trainer.sanity_checking)]

    def validated(self):
        return [weights for weights, sanity in self.seen if not sanity]


@pytest.mark.parametrize("ours", ["first", "last"])
def test_of_averaged_weights_what_was_validated_is_what_comes_back_and_ends_the_training(ours, tmp_path, state, host_of):
    average = pl.callbacks.EMAWeightAveraging(decay=0.5)
    steering = SmartTunerCallback("r", monitor="val_loss", goal="max")  # so that the best is not the last
    orders = Orders(steering, host_of, {17: [("prune", {"restore": "best"})]})
    callbacks = [steering, orders, average] if ours == "first" else [average, orders, steering]
    _, module = train(tmp_path, *callbacks, epochs=9, module=Averaged())
    host = orders.host.read()
    losses = [value for name, _, value in host.points if name == "val_loss"]
    steps = [step for name, step, _ in host.points if name == "val_loss"]
    best = losses[:4].index(max(losses[:4]))
    (ack,) = host.acks
    assert (ack.status, ack.after) == ("applied", {"restored": steps[best]}), ack.reason
    assert best < 3
    kept, reached = module.validated()[best], module.state_dict()
    assert all(torch.equal(kept[name], reached[name]) for name in kept)


def test_a_restored_checkpoint_brings_weights_and_average_back_each_to_its_own_place(tmp_path, state, host_of):
    average, seen = pl.callbacks.EMAWeightAveraging(decay=0.5), {}

    class Noting(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            seen[trainer.global_step] = on_cpu({"module": module.state_dict(), **average._average_model.state_dict()})

    steering = SmartTunerCallback("r")
    orders = Orders(steering, host_of, {2: [("checkpoint", {})], 6: [("restore", {"to": "last"})]})
    train(tmp_path, average, Noting(), orders, steering)
    assert {ack.status for ack in orders.host.read().acks} == {"applied"}
    saved, restored = seen[3], seen[7]
    assert all(torch.equal(saved[name], restored[name]) for name in saved if name != "module")
    assert all(torch.equal(saved["module"][name], restored["module"][name]) for name in saved["module"])
    assert not torch.equal(saved["module"]["line.weight"], saved["module.line.weight"])


def test_an_exception_ends_the_run_as_failed(tmp_path, state, host_of):
    class Breaks(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 3:
                raise ValueError("bad batch")

    steering = SmartTunerCallback("r")
    with pytest.raises(ValueError, match="bad batch"):
        train(tmp_path, steering, Breaks())
    (path,) = (state / "spool").glob("*.spool")
    assert [(one.state, one.ended_by) for one in host_of(path).read().runs[1:]] == [("failed", "ValueError: bad batch")]


def test_a_logger_alone_only_observes(tmp_path, state, host_of):
    train(tmp_path, logger=SmartTunerLogger("r"), epochs=1)
    (path,) = (state / "spool").glob("*.spool")
    host = host_of(path).read()
    assert (host.runs[0].started.mode, host.runs[-1].state) == ("observe", "finished")
    assert {"train_loss", "val_loss"} <= {row[0] for row in host.points}


def test_monitor_and_goal_are_what_lightning_was_told():
    def told(*callbacks):
        return judged(pl.Trainer(accelerator="cpu", logger=False, callbacks=list(callbacks), enable_checkpointing=bool(callbacks)))

    assert told() == (None, None)
    assert told(ModelCheckpoint(monitor="acc", mode="max")) == ("acc", "max")
    assert told(ModelCheckpoint(monitor="acc", mode="max"), EarlyStopping("val_loss")) == ("val_loss", "min")


def test_code_of_a_module_that_logs_pictures_finds_no_logger_that_it_cannot_use(tmp_path, state):
    class Pictures(Module):
        def on_train_batch_end(self, *_):
            if self.logger:
                self.logger.experiment.add_image("picture", torch.zeros(3, 2, 2), 1)
                self.logger.log_image(key="picture", images=[])

    trainer, _ = train(tmp_path, SmartTunerCallback("r"), epochs=1, module=Pictures())
    assert trainer.state.finished
    with pytest.raises(AttributeError, match="no attribute 'log_image'"):
        SmartTunerLogger("r").log_image  # one that was asked for says what it has not


def test_checkpoints_of_a_trainer_without_a_logger_go_where_they_go_unwatched(tmp_path, state):
    told = []
    for folder, ours in ((tmp_path / "alone", []), (tmp_path / "watched", [SmartTunerCallback("r")])):
        kept, logs = ModelCheckpoint(), []
        looks = pl.callbacks.LambdaCallback(on_train_batch_end=lambda one, *_, logs=logs: logs.append(one.log_dir))
        trainer, _ = train(folder, *ours, looks, kept, epochs=1)
        told.append((pathlib.Path(kept.best_model_path).relative_to(folder), set(logs) == {str(folder)}, trainer.loggers))
    assert told[0] == told[1]
