"""What a model thinks aloud is left out, however the text is cut."""

from hypothesis import given
from hypothesis import strategies as st

from speechgpt_gen.agent.brain.thoughts import Thoughts


def said(pieces):
    thoughts = Thoughts()
    return "".join([*(thoughts.push(piece) for piece in pieces), thoughts.finish()])


def test_thoughts_are_not_said():
    assert said(["<think>Hm.", " Well.</think>", "Hello."]) == "Hello."
    assert said(["A <think>x</think>B<think>y</think> C"]) == "A B C"
    assert said(["1 < 2, <thin", "k of it"]) == "1 < 2, <think of it"
    assert said(["never ", "<think>ending"]) == "never "


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", " b", "<", "<th"]), max_size=12), st.data())
def test_any_cutting_says_the_same(parts, data):
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert said(pieces) == said([text])
