"""The picture of the layers agrees with the table that tests/test_layering.py enforces."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from layer_picture import CHARACTERS_MAX, PICTURE, RULES, draw, layers
from page_tools import read


def test_the_picture_shows_the_table() -> None:
    assert PICTURE.read_text(encoding="utf-8") == draw(), "draw it anew: python tests/docs/layer_picture.py"


def test_every_layer_is_there_in_its_order() -> None:
    assert list(RULES) == list(reversed(layers()))


def test_every_file_is_named_and_fits() -> None:
    texts = ["".join(text.itertext()) for text in ET.fromstring(draw()).iter("{http://www.w3.org/2000/svg}text")]
    named = set(re.findall(r"\w+", " ".join(texts)))
    for patterns in layers().values():
        assert set(re.findall(r"\w+", " ".join(patterns))) - {"py"} <= named
    assert max(map(len, texts)) <= CHARACTERS_MAX


def test_the_page_shows_it() -> None:
    assert "](layers.svg)" in read("docs/design/layers.md")
