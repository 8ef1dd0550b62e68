"""Whatever of ours fails, or is done to the process: real trainings end with the weights that they end with unwatched."""

import contextlib
import os

import pytest
import torch
from smarttuner.trainer.step_hooks import HOOKS
from training_faults import AT, FAULTS, FROM_THE_START, HELD
from trainings import NEEDS, same, training_of

pytestmark = pytest.mark.filterwarnings("ignore")  # what the frameworks warn each other of is not ours


@pytest.mark.parametrize("fault", [*FROM_THE_START, *FAULTS])
@pytest.mark.parametrize("name", NEEDS)
def test_weights_are_bit_identical_whatever_fails(name, fault, state):
    training = training_of(name)
    for mode in ("observe", "act"):
        seen = []
        with contextlib.ExitStack() as stack:
            if fault in FROM_THE_START:
                FROM_THE_START[fault](stack)

            def strike(step, run, parts, stack=stack, seen=seen):
                before = torch.get_rng_state()
                if fault in FAULTS:
                    FAULTS[fault](step, run, parts, stack)
                assert torch.get_rng_state().equal(before)
                seen.append(step)

            try:
                weights = training(mode, strike)
            finally:
                while HELD:
                    HELD.pop().finish()
        if fault == "no folder":
            os.unlink(os.path.join(os.environ["XDG_STATE_HOME"], "smart-tuner"))
        assert seen == sorted(set(seen))
        assert seen[-1] > AT
        assert same(name, weights), mode
        for one in HOOKS.steerings:
            HOOKS.remove(one)
    HOOKS.failures = 0
