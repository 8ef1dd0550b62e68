"""A dead letter keeps the bytes of a record, and enough to send them back."""

import pytest
from smarttuner.core.errors import UsageError
from smarttuner.core.letters import MAX_LETTER_BYTES, Place, letter_in, letter_to, retried
from smarttuner.core.ports import DEAD_LETTERS, Record


def kept(record, reason="why", offset=3):
    message = letter_to(record, reason, "judge")
    return letter_in(Record(message.topic, 1, offset, message.key, message.body, 9.5, message.headers))


def test_a_letter_tells_why_where_from_and_when():
    one = kept(Record("metrics", 2, 7, "sweep", b"\xff\x00", 1.7e9 + 0.123456, (("key_id", b"\x01\xff"),)))
    assert (one.body, one.key, one.reason, one.origin, one.by) == (b"\xff\x00", "sweep", "why", "metrics/2@7", "judge")
    assert (one.appended, one.time, str(one.place), one.tries) == (1.7e9 + 0.123456, 9.5, "dead_letters/1@3", 0)
    assert one.headers == (("key_id", b"\x01\xff"),)


def test_a_body_of_a_megabyte_is_kept_whole_and_a_larger_one_says_what_it_lost():
    assert kept(Record("metrics", 0, 0, "k", b"x" * (1 << 20), 1.0)).whole
    one = kept(Record("metrics", 0, 0, "k", b"x" * (MAX_LETTER_BYTES + 1), 1.0))
    assert (one.whole, len(one.body), one.size) == (False, MAX_LETTER_BYTES, MAX_LETTER_BYTES + 1)


def test_what_is_sent_back_counts_its_tries_however_often_it_returns():
    record = Record("metrics", 2, 7, "sweep", b"?", 1.0, (("key_id", b"k"),))
    for tries in range(3):
        one = kept(record, offset=10 + tries)
        assert (one.tries, one.headers) == (tries, (("key_id", b"k"),))
        back, mark = one.again()
        assert (back.topic, back.key, back.body) == ("metrics", "sweep", b"?")
        assert mark.topic == DEAD_LETTERS
        assert retried(Record(DEAD_LETTERS, 1, 99, mark.key, mark.body, 1.0, mark.headers)) == f"dead_letters/1@{10 + tries}"
        record = Record("metrics", 2, 20 + tries, back.key, back.body, 1.0, back.headers)
    assert kept(record).retry_of == "dead_letters/1@12"


def test_a_record_with_more_headers_than_a_letter_bears_is_kept_without_them():
    one = kept(Record("metrics", 0, 0, "k", b"x", 1.0, (("big", b"h" * 20_000),)))
    assert (one.headers, one.reason) == ((), "why")


def test_a_letter_that_a_stranger_wrote_is_a_letter_without_an_origin():
    one = letter_in(Record(DEAD_LETTERS, 0, 0, "k", b"x", 1.0, (("bytes", b"many"), ("tries", b"-1"), ("from", b"\xff"))))
    assert (one.size, one.tries, one.origin) == (1, 0, "\ufffd")


@pytest.mark.parametrize("text", ["", "7", "dead_letters/0", "dead_letters/x@1", "dead_letters/0@-1", "dead_letters/٣@1"])
def test_what_names_no_place_is_a_usage_error(text):
    with pytest.raises(UsageError):
        Place.parse(text)
