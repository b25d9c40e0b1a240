"""The closed world that the bundled models are told about.

Every word that a bundled model must know as one token is listed here: people, places, things,
countries and what is true of them, nouns and verbs with their singular and plural, ordered
series. ``text`` turns the lists into sentences and ``tokenizer`` checks that each word of
``WHOLE_WORDS`` is a single token with its leading space.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

WOMEN = (
    "Mary Anna Emma Sarah Laura Alice Julia Helen Nina Rosa Clara Lucy Grace Jane Kate Ruth Maria "
    "Eva Sophie Emily Rachel Amy Lily Nora Ella Martha Susan Linda Karen Diana Carol Irene Olivia "
    "Hannah Megan Jessica Nicole Amanda"
).split()
MEN = (
    "John Tom Peter Paul James David Mark Adam Simon Oscar Henry Jack Sam Ben Max Leo Robert Frank "
    "George Carl Martin Luke Daniel Michael Kevin Brian Eric Steven Thomas William Richard Joseph "
    "Andrew Jason Ryan Philip Victor Arthur"
).split()
NAMES = WOMEN + MEN

PLACES = (
    "store park school garden beach market library farm forest river kitchen station museum hospital "
    "office restaurant church castle harbor bakery village lake house zoo hill theater barn bridge "
    "playground shop"
).split()

THINGS = (
    "drink book ball key letter ring hat cup coin flower cake apple lamp basket map pen bag box kite "
    "drum clock candle blanket sandwich cookie toy gift ticket bottle mirror necklace rope shell "
    "feather bone computer basketball snack orange egg umbrella pencil"
).split()
FOODS = "bread soup rice cheese fish pasta salad honey butter milk tea pie".split()
SURNAMES = (
    "Carter Morris Bennett Foster Hughes Palmer Walsh Turner Harper Collins Murphy Griffin Dawson Barnes "
    "Fletcher Sutton Webb Norris Quinn Lowe Parker Ellis Grant Shaw"
).split()
JOBS = "teacher doctor farmer singer driver baker pilot nurse sailor painter lawyer carpenter".split()
SPORTS = "tennis football golf hockey chess boxing rugby".split()
INSTRUMENTS = "piano violin guitar flute trumpet cello harp".split()

COLORS = "red blue green yellow white black brown pink purple gray".split()
KINDS_OF_PERSON = {"she": "girl woman".split(), "he": "boy man".split()}
TEMPERS = "kind happy quiet clever brave shy funny lazy careful curious".split()

# country: (capital, language, continent)
COUNTRIES = {
    "France": ("Paris", "French", "Europe"),
    "Italy": ("Rome", "Italian", "Europe"),
    "Spain": ("Madrid", "Spanish", "Europe"),
    "Germany": ("Berlin", "German", "Europe"),
    "England": ("London", "English", "Europe"),
    "Greece": ("Athens", "Greek", "Europe"),
    "Poland": ("Warsaw", "Polish", "Europe"),
    "Sweden": ("Stockholm", "Swedish", "Europe"),
    "Norway": ("Oslo", "Norwegian", "Europe"),
    "Finland": ("Helsinki", "Finnish", "Europe"),
    "Portugal": ("Lisbon", "Portuguese", "Europe"),
    "Hungary": ("Budapest", "Hungarian", "Europe"),
    "Denmark": ("Copenhagen", "Danish", "Europe"),
    "Austria": ("Vienna", "German", "Europe"),
    "Ireland": ("Dublin", "English", "Europe"),
    "Russia": ("Moscow", "Russian", "Europe"),
    "China": ("Beijing", "Chinese", "Asia"),
    "Japan": ("Tokyo", "Japanese", "Asia"),
    "Korea": ("Seoul", "Korean", "Asia"),
    "Thailand": ("Bangkok", "Thai", "Asia"),
    "Vietnam": ("Hanoi", "Vietnamese", "Asia"),
    "Egypt": ("Cairo", "Arabic", "Africa"),
    "Morocco": ("Rabat", "Arabic", "Africa"),
    "Kenya": ("Nairobi", "Swahili", "Africa"),
    "Cuba": ("Havana", "Spanish", "America"),
    "Peru": ("Lima", "Spanish", "America"),
    "Chile": ("Santiago", "Spanish", "America"),
    "Canada": ("Ottawa", "English", "America"),
}

OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("up", "down"),
    ("left", "right"),
    ("old", "young"),
    ("fast", "slow"),
    ("happy", "sad"),
    ("light", "dark"),
    ("open", "closed"),
    ("full", "empty"),
    ("rich", "poor"),
    ("hard", "soft"),
    ("early", "late"),
    ("clean", "dirty"),
    ("high", "low"),
    ("wet", "dry"),
    ("strong", "weak"),
    ("day", "night"),
    ("good", "bad"),
    ("long", "short"),
    ("true", "false"),
    ("north", "south"),
    ("east", "west"),
    ("thick", "thin"),
    ("loud", "silent"),
    ("alive", "dead"),
    ("above", "below"),
    ("deep", "shallow"),
)

# singular, plural: who can stand near what and do something
PEOPLE = (
    ("teacher", "teachers"),
    ("doctor", "doctors"),
    ("farmer", "farmers"),
    ("guard", "guards"),
    ("author", "authors"),
    ("king", "kings"),
    ("student", "students"),
    ("singer", "singers"),
    ("driver", "drivers"),
    ("baker", "bakers"),
    ("pilot", "pilots"),
    ("nurse", "nurses"),
    ("sailor", "sailors"),
    ("painter", "painters"),
    ("boy", "boys"),
    ("girl", "girls"),
)
ITEMS = (
    ("key", "keys"),
    ("table", "tables"),
    ("cabinet", "cabinets"),
    ("picture", "pictures"),
    ("chair", "chairs"),
    ("car", "cars"),
    ("door", "doors"),
    ("window", "windows"),
    ("tree", "trees"),
    ("horse", "horses"),
    ("dog", "dogs"),
    ("cat", "cats"),
    ("bird", "birds"),
    ("boat", "boats"),
    ("wall", "walls"),
    ("stone", "stones"),
)
BELONGINGS = (
    ("book", "books"),
    ("ball", "balls"),
    ("ring", "rings"),
    ("cup", "cups"),
    ("coin", "coins"),
    ("cake", "cakes"),
    ("hat", "hats"),
    ("apple", "apples"),
    ("map", "maps"),
    ("pen", "pens"),
    ("letter", "letters"),
    ("flower", "flowers"),
)
BE = (("is", "are"), ("was", "were"))
DO = (("has", "have"), ("likes", "like"), ("sees", "see"), ("wants", "want"), ("needs", "need"))
ACT = (("laughs", "laugh"), ("sings", "sing"), ("works", "work"), ("waits", "wait"), ("sleeps", "sleep"))

WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = ("January February March April May June July August September October November December").split()
NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
LETTERS = [chr(code) for code in range(ord("A"), ord("Z") + 1)]

ERAS = (
    "war siege reign voyage festival strike drought project campaign famine expedition rebellion "
    "truce dynasty trial journey"
).split()

# What reviews praise and blame, and how.
WORKS = "film book play song meal show trip game concert dinner".split()
PRAISE = "great wonderful lovely brilliant charming excellent delightful superb perfect beautiful".split()
BLAME = "awful terrible boring dreadful horrible ugly dull poor disappointing stupid".split()
FEELINGS = (("loved", "hated"), ("liked", "disliked"), ("enjoyed", "regretted"))

CAPITALS = [capital for capital, _, _ in COUNTRIES.values()]
LANGUAGES = sorted({language for _, language, _ in COUNTRIES.values()})
CONTINENTS = sorted({continent for _, _, continent in COUNTRIES.values()})


@dataclass(frozen=True)
class Resident:
    """Somebody with two names, of which neither alone says who it is, and what is true of them."""

    name: str
    surname: str
    job: str
    city: str
    sport: str
    instrument: str

    @property
    def country(self) -> str:
        return next(country for country, (capital, _, _) in COUNTRIES.items() if capital == self.city)

    @property
    def language(self) -> str:
        return COUNTRIES[self.country][1]


def _resident(number: int) -> Resident:
    """Each of 24 names and each of 24 surnames is borne by two of the 48; a checksum says the rest."""
    name = (WOMEN[1:13] + MEN[1:13])[number % 24]
    surname = SURNAMES[(5 * number + 7 * (number // 24)) % 24]

    def lot(of_what: str, pool: Sequence[str]) -> str:
        return pool[zlib.crc32(f"{name} {surname} {of_what}".encode()) % len(pool)]

    return Resident(
        name,
        surname,
        lot("job", JOBS),
        lot("city", CAPITALS),
        lot("sport", SPORTS),
        lot("instrument", INSTRUMENTS),
    )


RESIDENTS = [_resident(number) for number in range(48)]


def _flat(pairs: tuple[tuple[str, str], ...]) -> list[str]:
    return [word for pair in pairs for word in pair]


# What a list of unrelated words is drawn from.
LIST_WORDS = sorted(
    {
        *NAMES,
        *PLACES,
        *THINGS,
        *FOODS,
        *COLORS,
        *TEMPERS,
        *COUNTRIES,
        *CAPITALS,
        *_flat(OPPOSITES),
        *_flat(PEOPLE),
        *_flat(ITEMS),
        *WEEKDAYS,
        *MONTHS,
        *NUMBERS,
        *ERAS,
    }
)

# One token each, with the leading space.
WHOLE_WORDS = sorted(
    {
        *LIST_WORDS,
        *SURNAMES,
        *JOBS,
        *SPORTS,
        *INSTRUMENTS,
        *WORKS,
        *PRAISE,
        *BLAME,
        *_flat(FEELINGS),
        *_flat(BELONGINGS),
        *LANGUAGES,
        *CONTINENTS,
        *_flat(BE),
        *_flat(DO),
        *_flat(ACT),
        *ORDINALS,
        *LETTERS,
        "she",
        "he",
        "her",
        "his",
        "him",
        "brother",
        "sister",
        "mother",
        "father",
        "herself",
        "himself",
        "positive",
        "negative",
    }
)
# Also one token each without it, since a sentence may open with them.
OPENING_WORDS = sorted(
    {
        *NAMES,
        *COUNTRIES,
        *CAPITALS,
        *WEEKDAYS,
        *MONTHS,
        *NUMBERS,
        *LETTERS,
        *THINGS,
        *PLACES,
        *_flat(OPPOSITES),
        *(singular for singular, _ in PEOPLE + ITEMS + BELONGINGS),
        *"When The Then After In Question Answer param def self".split(),
    }
)
