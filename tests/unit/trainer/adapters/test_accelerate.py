"""A real loop with Accelerate, watched and steered; the daemon's side is done by hand (see conftest)."""

import pytest
import torch

accelerate = pytest.importorskip("accelerate")

from smarttuner.trainer.adapters.accelerate import SmartTunerTracker  # noqa: E402
from smarttuner.trainer.parts import on_cpu  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries warn each other of is not ours


def train(host_of=None, orders=None, **options):
    """A loop as Accelerate's documentation writes it: (weights, rates used, tracker, host)."""
    accelerate.utils.set_seed(3)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    used, host = [], None
    optimizer.register_step_pre_hook(lambda one, *_: used.append(one.param_groups[0]["lr"]))
    tracker = None if not options else SmartTunerTracker("r", optimizer=optimizer, model=model, **options)
    accelerator = accelerate.Accelerator(cpu=True, log_with=[tracker] if tracker else None, gradient_accumulation_steps=2)
    data = torch.utils.data.DataLoader(torch.randn(24, 5), batch_size=2)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    accelerator.init_trackers("project", config={"lr": 0.1})
    for step, batch in enumerate(data):
        if host_of is not None:
            host = host or host_of(tracker.tracker._line.spool.path)
            for action, params in orders.get(step, ()):
                host.order(action, action, **params)
        with accelerator.accumulate(model):
            loss = (model(batch[:, :4]) - batch[:, 4:]).square().mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        accelerator.log({"loss": loss.item(), "note": "text"}, step=step)
        if tracker is not None and tracker.tracker.should_stop:
            break
    accelerator.end_training()
    return on_cpu(accelerator.unwrap_model(model).state_dict()), used, tracker, host


def test_weights_are_bit_identical_watched_or_not(state):
    alone = train()[0]
    for mode in ("observe", "act"):
        watched = train(mode=mode)[0]
        assert all(torch.equal(alone[name], watched[name]) for name in alone)


def test_a_decision_takes_effect_at_the_optimizers_step(state, host_of):
    lr = {"intent": {"multiplier": 0.5, "hold": None, "revision": 1}, "factor": 0.5}
    _, used, tracker, host = train(host_of, {2: [("scale-lr", lr)], 6: [("prune", {})]}, tags={"a": 1})
    assert used == [0.1, 0.1, 0.05, 0.05]
    assert host.answers() == {"scale-lr": ("applied", ""), "prune": ("applied", "")}
    assert (host.runs[0].started.config, host.runs[0].started.tags) == ({"lr": 0.1}, {"a": 1})
    assert host.runs[-1].state == "pruned"
    assert [row[1] for row in host.points if row[0] == "loss"] == list(range(8))
    assert tracker.tracker.stop_reason == "because of prune"
