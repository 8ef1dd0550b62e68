"""The learning rate that is wanted, as state: changes of parts compose as if each group had a rate of its own."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from smarttuner.core.intent import LrIntent, Rate

OPTIMIZERS, GROUPS = ("g", "d"), ("0", "1", "2")
TARGETS = st.tuples(st.sampled_from([None, *OPTIMIZERS]), st.sampled_from([None, *GROUPS]))
CHANGES = st.lists(
    st.tuples(st.sampled_from(["scaled", "held", "released"]), st.sampled_from([0.5, 2.0, 0.25]), TARGETS), max_size=9
)


@given(CHANGES)
def test_changes_of_parts_are_as_if_each_group_had_a_rate_of_its_own(changes):
    intent, each = LrIntent(), {(optimizer, group): Rate() for optimizer in OPTIMIZERS for group in GROUPS}
    for action, number, (optimizer, group) in changes:
        intent = intent.released(optimizer, group) if action == "released" else getattr(intent, action)(number, optimizer, group)
        for name, rate in each.items():
            if optimizer in (None, name[0]) and group in (None, name[1]):
                if action == "released":
                    each[name] = Rate()
                elif action == "held":
                    each[name] = Rate(rate.multiplier, number)
                elif rate.hold is None:
                    each[name] = Rate(rate.multiplier * number)
                else:
                    each[name] = Rate(rate.multiplier, rate.hold * number)
    assert {name: intent.rate(*name) for name in each} == each
    assert intent.revision == len(changes)
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(intent.plain())), LrIntent) == intent


def test_what_is_released_for_all_leaves_no_part_behind():
    intent = LrIntent().scaled(0.5, "g").held(0.1, None, "1").scaled(0.5)
    assert len(intent.parts) > 1
    assert intent.released() == LrIntent(revision=4)
    assert intent.released().unchanged


def test_an_intent_says_itself_in_words():
    assert str(LrIntent(0.5)) == "times 0.5"
    assert str(LrIntent().held(0.01)) == "held at 0.01"
    assert str(LrIntent().scaled(0.5, "g", "1")) == "all times 1, g/1 times 0.5"
