"""README and pages are read by newcomers: short sentences, a short README, links that lead somewhere."""

import re
import statistics

import pytest

from tests.docs.pages import ALL, README, ROOT
from tests.docs.prose import sentences

NAMES = [file.relative_to(ROOT).as_posix() for file in ALL]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


def words(sentence):
    return sum(any(letter.isalnum() for letter in word) for word in sentence.split())


@pytest.mark.parametrize("name", NAMES)
def test_no_sentence_has_more_than_40_words(name):
    long = [each for each in sentences((ROOT / name).read_text()) if words(each) > 40]
    assert not long, f"{name}: shorten {long}"


def test_sentences_have_20_words_on_average_at_most():
    assert statistics.fmean(words(each) for file in ALL for each in sentences(file.read_text())) <= 20


def test_what_a_sentence_is():
    page = (
        "---\nhide: [toc]\n---\n\n# A heading\n\nOne `a. b` here (see 1.5). Two\nlines!\n\n"
        "- an item\n- [a link](../x.md) and\n  more\n\n| a | b |\n| --- | --- |\n\n```\nno. code\n```\n<!-- no -->\n"
    )
    expected = ["A heading", "One code here (see 1.5).", "Two lines!", "an item", "a link and more"]
    assert sentences(page) == expected


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 9000


@pytest.mark.parametrize("name", NAMES)
def test_links_in_the_clone_lead_somewhere(name):
    text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(), flags=re.DOTALL | re.MULTILINE)
    for target, anchor in LINK.findall(text):
        file = (ROOT / name).parent / target if target else ROOT / name
        assert file.exists(), f"{name} links to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = [re.sub(r"\W+", "-", re.sub(r"[^\w\s-]", "", heading).lower()).strip("-") for heading in headings]
            assert anchor in slugs, f"{name} links to {target}#{anchor}, and there is no such heading"
