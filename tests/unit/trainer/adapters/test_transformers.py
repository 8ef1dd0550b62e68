"""Real trainings by the Hugging Face Trainer, watched and steered; the daemon's side is done by hand (see conftest)."""

import pathlib

import pytest
import torch

transformers = pytest.importorskip("transformers")

from smarttuner.trainer.adapters.transformers import SmartTunerCallback, judged, run_name  # noqa: E402
from smarttuner.trainer.parts import on_cpu  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries warn each other of is not ours


class Model(torch.nn.Module):
    """A regression in the shape that the Trainer wants."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(4, 1)
        self.dropout = torch.nn.Dropout(0.1)

    def forward(self, inputs, labels):
        logits = self.line(self.dropout(inputs))
        return {"loss": (logits - labels).square().mean(), "logits": logits}


class Orders(transformers.TrainerCallback):
    """Places orders after the steps that are named."""

    def __init__(self, steering, host_of, orders):
        self.steering, self.host_of, self.orders = steering, host_of, orders
        self.host, self.rates = None, {}

    def on_step_begin(self, args, state, control, **parts):
        if self.host is None:
            self.host = self.host_of(self.steering.run._line.spool.path)
        for action, params in self.orders.get(state.global_step, ()):
            self.host.order(action, action, **params)


def arguments(folder, **more):
    return transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=12,
        per_device_train_batch_size=4,
        learning_rate=0.1,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        **more,
    )


def train(args, *callbacks):
    transformers.set_seed(3)
    model = Model()
    rows = [{"inputs": torch.randn(4), "labels": torch.randn(1)} for _ in range(16)]
    trainer = transformers.Trainer(model, args, train_dataset=rows, eval_dataset=rows, callbacks=list(callbacks))
    trainer.train()
    return trainer


def test_weights_are_bit_identical_watched_or_not(tmp_path, state):
    alone = on_cpu(train(arguments(tmp_path)).model.state_dict())
    for mode in ("observe", "act"):
        watched = train(arguments(tmp_path, metric_for_best_model="loss"), SmartTunerCallback("r", mode=mode)).model.state_dict()
        assert all(torch.equal(alone[name], watched[name]) for name in alone)


def test_decisions_go_through_the_trainers_own_doors(tmp_path, state, host_of):
    steering = SmartTunerCallback("r", tags={"a": 1})
    lr = {"intent": {"multiplier": 0.5, "hold": None, "revision": 1}, "factor": 0.5}
    orders = Orders(steering, host_of, {2: [("scale-lr", lr)], 4: [("checkpoint", {})], 8: [("prune", {"restore": "best"})]})
    used = []

    class Rates(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **parts):
            inner = getattr(optimizer, "optimizer", optimizer)
            inner.register_step_pre_hook(lambda one, *_: used.append(one.param_groups[0]["lr"]))

    args = arguments(tmp_path / "out", metric_for_best_model="loss", greater_is_better=False, lr_scheduler_type="constant")
    trainer = train(args, steering, orders, Rates())
    host = orders.host.read()
    answers = {ack.id: (ack.status, ack.step, ack.after) for ack in host.acks}
    folder = tmp_path / "out" / "checkpoint-5"
    assert answers["scale-lr"] == ("applied", 3, 0.05)
    assert answers["checkpoint"] == ("applied", 5, str(folder))
    assert answers["prune"][0] == "applied"
    assert trainer.state.global_step == 9
    assert used == [0.1] * 3 + [0.05] * 6
    assert torch.load(folder / "optimizer.pt", weights_only=True)["param_groups"][0]["lr"] == 0.1
    started, *_, ended = host.runs
    assert (started.started.monitor, started.started.goal, started.started.total_steps) == ("eval_loss", "min", 12)
    assert (started.started.config["learning_rate"], started.started.tags) == (0.1, {"a": 1})
    assert ended.state == "pruned"
    series = {}
    for name, step, value in host.points:
        series.setdefault(name, {})[step] = value
    assert list(series["eval_loss"]) == [3, 6, 9]
    assert {"loss", "grad_norm", "learning_rate", "lr_effective"} <= set(series)
    best = min(series["eval_loss"].items(), key=lambda one: (one[1], one[0]))
    assert answers["prune"][2] == {"restored": best[0]} or best[0] == 9


def test_a_save_that_does_not_come_is_answered_failed(tmp_path, state, host_of):
    steering = SmartTunerCallback("r")

    class Never(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **parts):
            control.should_save = False
            return control

    orders = Orders(steering, host_of, {2: [("checkpoint", {})]})
    train(arguments(tmp_path), steering, orders, Never())
    assert orders.host.answers()["checkpoint"] == ("failed", "the Trainer did not save")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, (None, None)),
        ({"metric_for_best_model": "loss"}, ("eval_loss", "min")),
        ({"metric_for_best_model": "eval_accuracy"}, ("eval_accuracy", "max")),
        ({"metric_for_best_model": "wer", "greater_is_better": False}, ("eval_wer", "min")),
    ],
)
def test_monitor_and_goal_are_what_the_trainer_was_told(tmp_path, said, expected):
    assert judged(arguments(tmp_path, **said)) == expected


def test_a_run_is_named_as_the_trainer_names_it(tmp_path):
    assert run_name(arguments(tmp_path, run_name="mine")) == "mine"
    assert run_name(arguments(tmp_path)) is None
    assert pathlib.Path(arguments(tmp_path).output_dir) == tmp_path
