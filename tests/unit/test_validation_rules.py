"""The rules that decide about a validation: each by itself, its borders, and what is never said."""

from datetime import date

import pytest

from transforms.validations.documents import compute_check_digit, is_number_sound
from transforms.validations.rules import Reason, Verdict, compute_age, decide_validation
from validation_requests import PERSON

TODAY = date(2026, 11, 21)


def reasons(minimum_age: int = 18, without: tuple[str, ...] = (), **changed: str) -> tuple[str, ...]:
    fields = {name: value for name, value in {**PERSON, **changed}.items() if name not in without}
    decision = decide_validation(fields, TODAY, minimum_age)
    assert (decision.verdict is Verdict.ACCEPTED) == (not decision.reasons)
    return decision.reasons


def test_a_good_request_is_accepted_with_and_without_a_document():
    assert reasons() == ()
    assert reasons(without=("document_type", "document_number")) == ()


@pytest.mark.parametrize(
    "name", ["Jo Bloggs", "J. R. R. Tolkien", "Siobhán O'Neill-Ó Sé", "李小龍", "प्रिया शर्मा", "Ng", "Øyvind"]
)
def test_names_of_the_world_are_names(name: str):
    assert reasons(full_name=name) == ()


@pytest.mark.parametrize("name", ["J", "R2 D2", "<script>", "  ", "-Jo", "Jo\tBloggs", "1234", "Jo_Bloggs"])
def test_what_is_no_name_is_told(name: str):
    assert reasons(full_name=name) == (Reason.NAME,)


@pytest.mark.parametrize(
    ("born", "age", "met"),
    [
        ("2008-11-21", 18, ()),
        ("2008-11-22", 18, (Reason.TOO_YOUNG,)),
        ("2008-11-22", 17, ()),
        ("2010-11-21", 16, ()),
        ("2026-11-21", 0, ()),
        ("2026-11-22", 0, (Reason.FUTURE,)),
        ("1903-01-01", 18, ()),
        ("1902-11-21", 18, (Reason.IMPLAUSIBLE,)),
    ],
)
def test_ages_are_counted_on_the_day_of_the_request(born: str, age: int, met: tuple[str, ...]):
    assert reasons(age, date_of_birth=born) == met


def test_whoever_is_born_on_a_leap_day_comes_of_age_on_the_first_of_march():
    born = date(2008, 2, 29)
    assert [compute_age(born, date(2026, *day)) for day in ((2, 28), (3, 1))] == [17, 18]


@pytest.mark.parametrize("phone", ["+4915123456789", "+442079460958", "+12025550199"])
def test_numbers_that_a_country_gives_are_numbers(phone: str):
    assert reasons(phone_number=phone) == ()


@pytest.mark.parametrize("phone", ["+10000000000", "+9999999999", "+4912", "+441"])
def test_numbers_that_no_country_gives_are_told(phone: str):
    assert reasons(phone_number=phone) == (Reason.PHONE,)


def test_an_address_is_whole_as_its_country_has_it():
    for field in ("address_street", "address_city", "address_postal_code"):
        assert reasons(without=(field,)) == (Reason.ADDRESS,)
    assert reasons(without=("address_postal_code",), address_country="HK") == ()
    assert reasons(address_country="XX") == (Reason.COUNTRY,)


def test_a_document_is_whole_and_its_check_digit_fits():
    for field in ("document_type", "document_number"):
        assert reasons(without=(field,)) == (Reason.DOCUMENT,)
    assert reasons(document_number="L898902C35") == (Reason.CHECK_DIGIT,)
    assert reasons(document_number="L898902C3X") == (Reason.CHECK_DIGIT,)
    assert reasons(document_number="L898902C3") == ()
    # What ICAO does not number has no check digit of its kind.
    assert reasons(document_type="driving_licence", document_number="L898902C35") == ()


@pytest.mark.parametrize(
    ("text", "digit"),
    # Doc 9303 part 4, appendix A, and part 3, section 4.9.
    [("L898902C3", 6), ("740812", 2), ("120415", 9), ("D23145890", 7), ("520727", 3), ("<<<<", 0)],
)
def test_check_digits_are_those_of_the_standard(text: str, digit: int):
    assert compute_check_digit(text) == digit


def test_every_single_wrong_digit_of_a_number_is_noticed():
    for at in range(10):
        wrong = [
            f"{'1234567897'[:at]}{digit}{'1234567897'[at + 1 :]}"
            for digit in "0123456789"
            if digit != "1234567897"[at]
        ]
        assert is_number_sound("1234567897")
        assert not any(map(is_number_sound, wrong))


def test_all_reasons_are_given_in_a_fixed_order_and_none_holds_a_value():
    met = reasons(
        without=("address_city", "document_type"),
        full_name="1",
        phone_number="+4912",
        date_of_birth="2020-01-01",
        address_country="XX",
    )
    assert met == (Reason.NAME, Reason.PHONE, Reason.COUNTRY, Reason.ADDRESS, Reason.DOCUMENT, Reason.TOO_YOUNG)
    assert all(value not in code for code in Reason for value in PERSON.values())
