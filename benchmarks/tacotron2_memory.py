"""Full-size Tacotron 2 (512/1024, 28 M parameters) on the CPU: seconds and peak memory of a few steps, with and without
activation and gradient checkpointing, each in a process of its own.

    python benchmarks/tacotron2_memory.py --steps 2 --batch 4 --frames 300
"""

import argparse
import resource
import subprocess
import sys
import time

WAYS = {"plain": (False, False), "gradient_checkpointing": (False, True), "both": (True, True)}


def measure(way: str, steps: int, batch: int, frames: int) -> None:
    """Prints one line about this process."""
    import torch
    from smarttuner.trainer.tacotron2.losses import counts_of, losses
    from smarttuner.trainer.tacotron2.machine import optimizer_of
    from smarttuner.trainer.tacotron2.model import Batch, Tacotron2
    from smarttuner.trainer.tacotron2.settings import Recipe

    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = Recipe(encoder_embedding_dim=512, decoder_rnn_dim=1024, reduction_factor=1).complete()
    model = Tacotron2(40, 80, recipe, *WAYS[way])
    optimizer = optimizer_of(model.parameters(), 1e-3, 1e-6, False)
    texts = torch.randint(1, 40, (batch, 60))
    data = Batch(texts, torch.full((batch,), 60), torch.randn(batch, frames, 80), torch.full((batch,), frames))
    began = time.process_time()
    for _ in range(steps):
        found = losses(model(data), data, recipe, counts_of(data, 1))
        optimizer.zero_grad(set_to_none=True)
        found.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    took = (time.process_time() - began) / steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{way:24} {took:6.2f} CPU-s a step, peak {peak:6.0f} MB, loss {float(found.loss.detach()):.6f}", flush=True)


def main() -> None:
    """One process a way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--way", choices=sorted(WAYS))
    given = parser.parse_args()
    if given.way:
        measure(given.way, given.steps, given.batch, given.frames)
        return
    sizes = ["--steps", str(given.steps), "--batch", str(given.batch), "--frames", str(given.frames)]
    for way in WAYS:
        subprocess.run([sys.executable, __file__, *sizes, "--way", way], check=True)


if __name__ == "__main__":
    main()
