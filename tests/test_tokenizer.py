import numpy as np
import pytest

from microgpt_fast.config import UsageError
from microgpt_fast.data.tokenizer import Tokenizer

TEXT = "zebra\x00 é\ufeff한글\u2028\uffff😀😀a"


def test_ids_follow_the_order_of_code_points():
    tokenizer = Tokenizer(TEXT)
    assert list(tokenizer.chars) == sorted(set(TEXT))
    assert tokenizer.encode(TEXT).tolist() == [sorted(set(TEXT)).index(char) for char in TEXT]
    assert tokenizer.bos == len(set(TEXT)) and tokenizer.vocab_size == len(set(TEXT)) + 1


def test_bos_first_shifts_the_ids():
    tokenizer = Tokenizer("cab", bos="first")
    assert tokenizer.bos == 0 and tokenizer.vocab_size == 4
    assert tokenizer.encode("abc").tolist() == [1, 2, 3]


@pytest.mark.parametrize("bos", ["first", "last"])
def test_decode_inverts_encode_and_drops_bos(bos):
    tokenizer = Tokenizer(TEXT, bos)
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int32
    assert tokenizer.decode([tokenizer.bos, *ids, tokenizer.bos]) == TEXT
    assert tokenizer.decode([]) == "" and tokenizer.encode("").shape == (0,)


@pytest.mark.parametrize("char", ["b", "😀", "\x00", "\U0010ffff"])
def test_unknown_characters_are_refused(char):
    with pytest.raises(UsageError, match=f"U\\+{ord(char):04X}"):
        Tokenizer("ac").encode("a" + char)


@pytest.mark.parametrize("ids", [[-1], [3], [0, 7]])
def test_unknown_ids_are_refused(ids):
    with pytest.raises(IndexError, match="0 ... 2"):
        Tokenizer("ab").decode(ids)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(UsageError, match="U\\+D83D, at index 1"):
        Tokenizer("ab").encode("a\ud83d")


def test_unknown_place_of_bos():
    with pytest.raises(UsageError, match="middle"):
        Tokenizer("ab", bos="middle")
