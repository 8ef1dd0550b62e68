"""Six real trainings, each of which ends with the same weights bit for bit, whatever happens to Smart Tuner meanwhile.

Each is called with a mode, or None for a training without a word of Smart Tuner, and with `strike(step, run, parts)`, which is
called in every step between the gradients and the optimizer's step, where the training is its own; in a framework at the step's
beginning. Returns the weights.
"""

import copy

import torch

STEPS = 12


def nothing(step, run, parts):
    """Nothing happens."""


def _attach(mode, **parts):
    import smarttuner

    return None if mode is None else smarttuner.attach("r", mode=mode, **parts)


def _log(run, values, step):
    if run is not None:
        run.log(values, step=step)


def plain_loop(mode, strike=nothing):
    """Dropout, a schedule, a scaler: all that draws random numbers or keeps a state."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    schedule, scaler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 30), torch.amp.GradScaler("cpu", init_scale=8.0)
    parts = {"optimizer": optimizer, "model": model, "scheduler": schedule, "scaler": scaler}
    run = _attach(mode, monitor="loss", goal="min", **parts)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 4)).square().mean()
        scaler.scale(loss).backward()
        strike(step, run, parts)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        _log(run, {"loss": loss}, step)
    if run is not None:
        run.finish()
    return [*model.parameters(), *model.buffers()]


def gan(mode, strike=nothing):
    """Discriminator and generator, a step each; what is attached hears both."""
    torch.manual_seed(0)
    g, d = torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    optimizers = {"G": torch.optim.Adam(g.parameters(), lr=0.01), "D": torch.optim.RMSprop(d.parameters(), lr=0.02)}
    parts = {"optimizer": optimizers, "model": {"G": g, "D": d}}
    run = _attach(mode, monitor="g_loss", goal="min", **parts)
    for step in range(STEPS):
        real, noise = torch.randn(8, 3), torch.randn(8, 2)
        optimizers["D"].zero_grad()
        d_loss = torch.nn.functional.softplus(-d(real)).mean() + torch.nn.functional.softplus(d(g(noise).detach())).mean()
        d_loss.backward()
        optimizers["D"].step()
        optimizers["G"].zero_grad()
        g_loss = torch.nn.functional.softplus(-d(g(noise))).mean()
        g_loss.backward()
        strike(step, run, parts)
        optimizers["G"].step()
        _log(run, {"d_loss": d_loss, "g_loss": g_loss}, step)
    if run is not None:
        run.finish()
    return [*g.parameters(), *d.parameters()]


def lbfgs(mode, strike=nothing):
    """A closure that is evaluated many times a step."""
    torch.manual_seed(0)
    model, inputs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)), torch.randn(16, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")
    parts = {"optimizer": optimizer, "model": model}
    run, struck = _attach(mode, monitor="loss", goal="min", **parts), set()

    def closure(step):
        optimizer.zero_grad()
        loss = (model(inputs).squeeze() - inputs.sum(1)).square().mean()
        loss.backward()
        if step not in struck:
            struck.add(step)
            strike(step, run, parts)  # inside the optimizer's own step
        return loss

    for step in range(STEPS):
        _log(run, {"loss": optimizer.step(lambda step=step: closure(step))}, step)
    if run is not None:
        run.finish()
    return list(model.parameters())


class Regression(torch.nn.Module):
    """In the shape that the Hugging Face Trainer wants."""

    def __init__(self):
        super().__init__()
        self.line, self.dropout = torch.nn.Linear(4, 1), torch.nn.Dropout(0.1)

    def forward(self, inputs, labels):
        logits = self.line(self.dropout(inputs))
        return {"loss": (logits - labels).square().mean(), "logits": logits}


def transformers_trainer(mode, strike=nothing):
    """The Hugging Face Trainer."""
    import tempfile

    import transformers
    from smarttuner.trainer.adapters.transformers import SmartTunerCallback

    steering = None if mode is None else SmartTunerCallback("r", mode=mode)

    class Striking(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, optimizer=None, **parts):
            inner = getattr(optimizer, "optimizer", optimizer)
            strike(state.global_step, steering and steering.run, {"optimizer": inner, "model": model})

    transformers.set_seed(3)
    rows = [{"inputs": torch.randn(4), "labels": torch.randn(1)} for _ in range(16)]
    with tempfile.TemporaryDirectory() as folder:
        args = transformers.TrainingArguments(
            output_dir=folder, max_steps=STEPS, per_device_train_batch_size=4, learning_rate=0.1, logging_steps=1,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, seed=3,
        )  # fmt: skip
        model, callbacks = Regression(), [*([] if steering is None else [steering]), Striking()]
        transformers.Trainer(model, args, train_dataset=rows, callbacks=callbacks).train()
    return list(model.parameters())


def lightning_trainer(mode, strike=nothing):
    """Lightning, whose optimizer steps with a closure."""
    import lightning.pytorch as pl
    from smarttuner.trainer.adapters.lightning import SmartTunerCallback

    steering = None if mode is None else SmartTunerCallback("r", mode=mode)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(4, 1)

        def training_step(self, batch, index):
            loss = (self.line(torch.nn.functional.dropout(batch[0], 0.1)) - batch[1]).square().mean()
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)}

    class Striking(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            parts = {"optimizer": trainer.optimizers[0], "model": module}
            strike(trainer.global_step, steering and steering._run, parts)

    pl.seed_everything(3, verbose=False)
    module = Module()
    data = torch.utils.data.TensorDataset(torch.randn(16, 4), torch.randn(16, 1))
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=STEPS // 4, logger=False, callbacks=[*([] if steering is None else [steering]), Striking()],
        log_every_n_steps=1, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4, shuffle=True))
    return list(module.parameters())


def accelerate_loop(mode, strike=nothing):
    """A loop with Accelerate, which accumulates two gradients a step."""
    import accelerate
    from smarttuner.trainer.adapters.accelerate import SmartTunerTracker

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Dropout(0.1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    parts = {"optimizer": optimizer, "model": model}
    tracker = None if mode is None else SmartTunerTracker("r", mode=mode, **parts)
    accelerator = accelerate.Accelerator(cpu=True, log_with=[tracker] if tracker else None, gradient_accumulation_steps=2)
    data = torch.utils.data.DataLoader(torch.randn(4 * STEPS, 5), batch_size=2)
    wrapped, stepping, data = accelerator.prepare(model, optimizer, data)
    accelerator.init_trackers("project")
    for number, batch in enumerate(data):
        with accelerator.accumulate(wrapped):
            loss = (wrapped(batch[:, :4]) - batch[:, 4:]).square().mean()
            accelerator.backward(loss)
            if number % 2:
                strike(number // 2, tracker and tracker.tracker, parts)
            stepping.step()
            stepping.zero_grad()
        accelerator.log({"loss": loss.item()}, step=number)
    accelerator.end_training()
    return list(model.parameters())


NEEDS = {
    "plain loop": (plain_loop, None),
    "gan": (gan, None),
    "lbfgs": (lbfgs, None),
    "transformers": (transformers_trainer, "transformers"),
    "lightning": (lightning_trainer, "lightning.pytorch"),
    "accelerate": (accelerate_loop, "accelerate"),
}
"""Each training by its name, and the library it needs."""

_ALONE = {}


def training_of(name):
    """The training of that name; skips the test where its library is not installed."""
    import pytest

    training, needs = NEEDS[name]
    if needs is not None:
        pytest.importorskip(needs)
    return training


def unwatched(name):
    """The weights of that training without a word of Smart Tuner, made once a process."""
    if name not in _ALONE:
        _ALONE[name] = copy.deepcopy([one.detach() for one in training_of(name)(None)])
        assert all(one.isfinite().all() for one in _ALONE[name])
    return _ALONE[name]


def same(name, weights):
    """Whether these are the weights that the training ends with where nobody watches it."""
    return all(torch.equal(a, b) for a, b in zip(unwatched(name), weights, strict=True))
