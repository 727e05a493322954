"""Letters: what of a text is read, and the text of a way through frames."""

from speechgpt_gen.models.recognition.letters import SYMBOLS, characters, collapsed, plainly, spelled_words


def test_a_text_is_its_letters_and_single_spaces() -> None:
    assert spelled_words("It's  twenty-five - at 7 o'clock, caf\u00e9!") == [
        "it's",
        "twentyfive",
        "at",
        "o'clock",
        "caf",
    ]
    assert plainly("What?  No.") == "what no"
    assert [SYMBOLS[c] for c in characters("A b")] == ["a", " ", "b"]


def test_a_way_through_frames_says_what_is_repeated_once() -> None:
    way = [SYMBOLS.index(c) for c in "__hhe_ll_lloo  _ _m_mm_"]
    assert collapsed(way) == "hello  mm"
    assert collapsed(characters("see")) == "se", "the same letter twice wants a blank between"
