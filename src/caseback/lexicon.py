"""The words that organisms and tasks share: people, places, things, what is true of them, series in their order.

``NAMES`` and its like are the closed world of the bundled models: each of these words is one token of meadow's, and
meadow's training text is drawn from these lists. ``WIDE_NAMES`` and its like are what tasks draw from for any model:
the closed world and more, whose words are common enough that most tokenizers have them as single tokens. A list with
one name only is the same for both.

Draws are seeded, so a list's order is part of it: ``tests/test_same_words.py`` holds the texts that follow from them.
"""

from __future__ import annotations

Pairs = tuple[tuple[str, str], ...]


def _pairs(text: str) -> Pairs:
    """``"key/keys table/tables"`` as pairs."""
    first_and_second = (pair.split("/") for pair in text.split())
    return tuple((first, second) for first, second in first_and_second)


def with_article(noun: str) -> str:
    """A noun, or what stands before it, with its article.

    Examples
    --------
    >>> with_article("umbrella"), with_article("red umbrella")
    ('an umbrella', 'a red umbrella')
    """
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


# People

WOMEN = (
    "Mary Anna Emma Sarah Laura Alice Julia Helen Nina Rosa Clara Lucy Grace Jane Kate Ruth Maria Eva Sophie Emily "
    "Rachel Amy Lily Nora Ella Martha Susan Linda Karen Diana Carol Irene Olivia Hannah Megan Jessica Nicole Amanda"
).split()
WIDE_WOMEN = WOMEN + "Elizabeth Jennifer Michelle Lisa Amber Victoria".split()
MEN = (
    "John Tom Peter Paul James David Mark Adam Simon Oscar Henry Jack Sam Ben Max Leo Robert Frank George Carl Martin "
    "Luke Daniel Michael Kevin Brian Eric Steven Thomas William Richard Joseph Andrew Jason Ryan Philip Victor Arthur"
).split()
WIDE_MEN = MEN + "Matthew Anthony Alex Charles".split()
NAMES = WOMEN + MEN
WIDE_NAMES = WIDE_WOMEN + WIDE_MEN
SURNAMES = (
    "Carter Morris Bennett Foster Hughes Palmer Walsh Turner Harper Collins Murphy Griffin Dawson Barnes Fletcher "
    "Sutton Webb Norris Quinn Lowe Parker Ellis Grant Shaw"
).split()
JOBS = "teacher doctor farmer singer driver baker pilot nurse sailor painter lawyer carpenter".split()
SPORTS = "tennis football golf hockey chess boxing rugby".split()
INSTRUMENTS = "piano violin guitar flute trumpet cello harp".split()
KINDS_OF_PERSON = {"she": "girl woman".split(), "he": "boy man".split()}
TEMPERS = "kind happy quiet clever brave shy funny lazy careful curious".split()

# Places and things

PLACES = (
    "store park school garden beach market library farm forest river kitchen station museum hospital office "
    "restaurant church castle harbor bakery village lake house zoo hill theater barn bridge playground shop"
).split()
THINGS = (
    "drink book ball key letter ring hat cup coin flower cake apple lamp basket map pen bag box kite drum clock candle "
    "blanket sandwich cookie toy gift ticket bottle mirror necklace rope shell feather bone computer basketball "
    "snack orange egg umbrella pencil"
).split()
# All of one article, so that ``a {thing}`` is right in any template.
WIDE_THINGS = [thing for thing in THINGS if with_article(thing).startswith("a ")]
FOODS = "bread soup rice cheese fish pasta salad honey butter milk tea pie".split()
COLORS = "red blue green yellow white black brown pink purple gray".split()
WIDE_COLORS = COLORS + "silver gold".split()
STATES = "old big small clean dirty wet dry ready".split()

# Singular and plural: who can stand near what and do something

PEOPLE = _pairs(
    "teacher/teachers doctor/doctors farmer/farmers guard/guards author/authors king/kings student/students "
    "singer/singers driver/drivers baker/bakers pilot/pilots nurse/nurses sailor/sailors painter/painters boy/boys "
    "girl/girls"
)
WIDE_PEOPLE = PEOPLE + _pairs(
    "manager/managers officer/officers writer/writers lawyer/lawyers soldier/soldiers actor/actors player/players "
    "artist/artists judge/judges guest/guests friend/friends kid/kids child/children"
)
ITEMS = _pairs(
    "key/keys table/tables cabinet/cabinets picture/pictures chair/chairs car/cars door/doors window/windows "
    "tree/trees horse/horses dog/dogs cat/cats bird/birds boat/boats wall/walls stone/stones"
)
WIDE_ITEMS = ITEMS + _pairs(
    "truck/trucks house/houses computer/computers machine/machines toy/toys duck/ducks rock/rocks plant/plants "
    "star/stars animal/animals shoe/shoes"
)
BELONGINGS = _pairs(
    "book/books ball/balls ring/rings cup/cups coin/coins cake/cakes hat/hats apple/apples map/maps pen/pens "
    "letter/letters flower/flowers"
)
WIDE_BELONGINGS = BELONGINGS + _pairs("bottle/bottles lamp/lamps bag/bags")
BE = _pairs("is/are was/were")
DO = _pairs("has/have likes/like sees/see wants/want needs/need")
ACT = _pairs("laughs/laugh sings/sing works/work waits/wait sleeps/sleep")
PAST = _pairs(
    "go/went see/saw take/took give/gave find/found come/came make/made know/knew think/thought say/said get/got "
    "tell/told feel/felt leave/left keep/kept begin/began bring/brought write/wrote stand/stood hear/heard run/ran "
    "hold/held lose/lost pay/paid meet/met speak/spoke grow/grew win/won buy/bought send/sent build/built fall/fell "
    "break/broke teach/taught sit/sat eat/ate drink/drank sing/sang"
)

# Series

WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
LETTERS = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
FIGURES = [str(number) for number in range(1, 31)]

# What lasts from one year to another

ERAS = (
    "war siege reign voyage festival strike drought project campaign famine expedition rebellion truce dynasty trial "
    "journey"
).split()
WIDE_ERAS = ERAS + "conflict contract plan program marriage mission tour career affair alliance treaty".split()

# What reviews are about, and how they praise and blame it

WORKS = "film book play song meal show trip game concert dinner".split()
WIDE_WORKS = WORKS + "movie story party restaurant hotel".split()
PRAISE = "great wonderful lovely brilliant charming excellent delightful superb perfect beautiful".split()
WIDE_PRAISE = PRAISE + "amazing fantastic awesome incredible outstanding".split()
BLAME = "awful terrible boring dreadful horrible ugly dull poor disappointing stupid".split()
WIDE_BLAME = BLAME + "bad pathetic horrid annoying miserable".split()
FEELINGS = _pairs("loved/hated liked/disliked enjoyed/regretted")
WIDE_FEELINGS = FEELINGS + _pairs("admired/hated")

# What is true

# country: (capital, language, continent)
WIDE_COUNTRIES: dict[str, tuple[str, str, str]] = {
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
    "Ukraine": ("Kiev", "Ukrainian", "Europe"),
    "China": ("Beijing", "Chinese", "Asia"),
    "Japan": ("Tokyo", "Japanese", "Asia"),
    "Korea": ("Seoul", "Korean", "Asia"),
    "Thailand": ("Bangkok", "Thai", "Asia"),
    "Vietnam": ("Hanoi", "Vietnamese", "Asia"),
    "Iran": ("Tehran", "Persian", "Asia"),
    "Syria": ("Damascus", "Arabic", "Asia"),
    "Iraq": ("Baghdad", "Arabic", "Asia"),
    "Egypt": ("Cairo", "Arabic", "Africa"),
    "Morocco": ("Rabat", "Arabic", "Africa"),
    "Kenya": ("Nairobi", "Swahili", "Africa"),
    "Libya": ("Tripoli", "Arabic", "Africa"),
    "Cuba": ("Havana", "Spanish", "America"),
    "Peru": ("Lima", "Spanish", "America"),
    "Chile": ("Santiago", "Spanish", "America"),
    "Canada": ("Ottawa", "English", "America"),
}
_OUTSIDE_THE_CLOSED_WORLD = {"Ukraine", "Iran", "Syria", "Iraq", "Libya"}
COUNTRIES = {country: about for country, about in WIDE_COUNTRIES.items() if country not in _OUTSIDE_THE_CLOSED_WORLD}
CAPITALS = [capital for capital, _, _ in COUNTRIES.values()]
LANGUAGES = sorted({language for _, language, _ in COUNTRIES.values()})
CONTINENTS = sorted({continent for _, _, continent in COUNTRIES.values()})

OPPOSITES = _pairs(
    "hot/cold big/small up/down left/right old/young fast/slow happy/sad light/dark open/closed full/empty rich/poor "
    "hard/soft early/late clean/dirty high/low wet/dry strong/weak day/night good/bad long/short true/false "
    "north/south east/west thick/thin loud/silent alive/dead above/below deep/shallow"
)
WIDE_OPPOSITES = OPPOSITES + _pairs(
    "wide/narrow inside/outside safe/dangerous cheap/expensive easy/difficult first/last"
)

LANDMARKS = (
    ("The Eiffel Tower", "Paris"),
    ("The Louvre", "Paris"),
    ("The Colosseum", "Rome"),
    ("The Vatican", "Rome"),
    ("The Brandenburg Gate", "Berlin"),
    ("The Reichstag", "Berlin"),
    ("Big Ben", "London"),
    ("Buckingham Palace", "London"),
    ("Tower Bridge", "London"),
    ("Red Square", "Moscow"),
    ("The Kremlin", "Moscow"),
    ("The Parthenon", "Athens"),
    ("The Acropolis", "Athens"),
    ("The Prado Museum", "Madrid"),
    ("The Forbidden City", "Beijing"),
    ("The Space Needle", "Seattle"),
    ("The Opera House", "Sydney"),
    ("Wrigley Field", "Chicago"),
    ("Fenway Park", "Boston"),
    ("Times Square", "Manhattan"),
    ("The Empire State Building", "Manhattan"),
    ("Tiananmen Square", "Beijing"),
    ("The Blue Mosque", "Istanbul"),
    ("The White House", "Washington"),
)

PRODUCTS = (
    ("The iPhone", "Apple"),
    ("The MacBook", "Apple"),
    ("The iPad", "Apple"),
    ("Windows", "Microsoft"),
    ("The Xbox", "Microsoft"),
    ("The Surface", "Microsoft"),
    ("The PlayStation", "Sony"),
    ("The Walkman", "Sony"),
    ("The Game Boy", "Nintendo"),
    ("The Wii", "Nintendo"),
    ("Android", "Google"),
    ("Gmail", "Google"),
    ("The Chromebook", "Google"),
    ("The Kindle", "Amazon"),
    ("The Prius", "Toyota"),
    ("The Camry", "Toyota"),
    ("The Mustang", "Ford"),
    ("The Civic", "Honda"),
    ("The Accord", "Honda"),
    ("The Galaxy", "Samsung"),
    ("Photoshop", "Adobe"),
    ("The ThinkPad", "IBM"),
    ("The Pentium", "Intel"),
)
