import pytest

from ndpp_dense.layers.stage_pattern import STAGE_WORDS, BlockSequence, stage_pattern

DEPTHS = (3, 4, 6, 3)


def efficient(pattern, depths=DEPTHS):
    return [sum(kind not in ("conv", "avg_conv") for kind in stage) for stage in stage_pattern(pattern, depths)]


@pytest.mark.parametrize("word", STAGE_WORDS)
def test_a_letter_a_stage(word):
    kinds = stage_pattern(word, DEPTHS)
    assert [len(stage) for stage in kinds] == list(DEPTHS)
    assert [set(stage) for stage in kinds] == [{"conv"} if letter == "B" else {"max"} for letter in word]


def test_hybrid_keeps_a_convolution_at_the_head_of_later_stages():
    kinds = stage_pattern("hybrid", DEPTHS)
    assert kinds[0] == ["max"] * 3
    assert all(stage == ["avg_conv"] + ["max"] * (len(stage) - 1) for stage in kinds[1:])


@pytest.mark.parametrize("pattern", ["deform_max", "deform_avg"])
def test_deformable_patterns_are_hybrids(pattern):
    hybrid = [["max" if kind == pattern else kind for kind in stage] for stage in stage_pattern(pattern, DEPTHS)]
    assert hybrid == stage_pattern("hybrid", DEPTHS)


def test_alternation_runs_through_the_network():
    kinds = sum(stage_pattern("E/B", DEPTHS), [])
    assert kinds == ["max", "conv"] * 8
    assert [stage[0] for stage in stage_pattern("E/B", DEPTHS)] == ["max", "conv", "conv", "conv"]


def test_counts():
    assert efficient("max") == efficient("EEEE") == list(DEPTHS)
    assert efficient("hybrid") == [3, 3, 5, 2]
    assert efficient("hybrid", (2, 2)) == [2, 1]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("hybird", "Did you mean 'hybrid'"),
        ("deform-max", "Did you mean 'deform_max'"),
        ("eebb", "Did you mean 'EEBB'"),
        ("EEB", "has 3 letters for 4 stages"),
        ("EXBB", "Did you mean 'E"),
        ("", "Choices: 'hybrid'.*such as 'EEBB'"),
    ],
)
def test_unknown_patterns(pattern, message):
    with pytest.raises(ValueError, match=message):
        stage_pattern(pattern, DEPTHS)


def test_a_sequence_gives_each_block_its_kind():
    class Block:
        expansion = 4

        def __init__(self, width, pooling):
            self.seen = (width, pooling)

    blocks = BlockSequence(Block, ["max", "conv"])
    assert blocks.expansion == 4
    assert [blocks(1).seen, blocks(width=2).seen] == [(1, "max"), (2, "conv")]
    with pytest.raises(RuntimeError, match="More blocks"):
        blocks(3)
