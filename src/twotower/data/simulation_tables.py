"""The side tables of the simulated log: films, whose titles give away the genre, and the people who watch them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

WORDS_OF_GENRES = {
    "Action": "Strike Fury Pursuit Impact Ambush Vengeance Blast Rampage Combat Ricochet",
    "Adventure": "Voyage Treasure Jungle Expedition Island Compass Caravan Quest Summit Horizon",
    "Animation": "Rabbit Teapot Puppet Bumblebee Snowflake Dragonfly Lollipop Penguin Acorn Crayon",
    "Children's": "Kitten Playground Birthday Wagon Cousins Treehouse Puddle Lunchbox Kite Holiday",
    "Comedy": "Wedding Neighbour Boss Roommate Vacation Reunion Dentist Manners Landlord Blunder",
    "Crime": "Heist Alibi Syndicate Informant Verdict Smuggler Getaway Racket Ransom Witness",
    "Documentary": "Portrait Chronicle Glacier Archive Workers Harvest Testimony River Orchestra Strikers",
    "Drama": "Letters Daughter Silence Autumn Promise Inheritance Farewell Confession Brothers Distance",
    "Fantasy": "Wizard Kingdom Unicorn Prophecy Enchantress Amulet Giant Spell Throne Griffin",
    "Film-Noir": "Shadow Cigarette Fog Blonde Detective Alley Midnight Betrayal Stranger Venetian",
    "Horror": "Crypt Whisper Coffin Nightmare Cellar Asylum Werewolf Scream Ghoul Possession",
    "Musical": "Broadway Rhythm Serenade Footlights Tango Cabaret Chorus Melody Waltz Tambourine",
    "Mystery": "Riddle Cipher Vanishing Locket Manor Clue Secret Portal Diary Labyrinth",
    "Romance": "Kiss Sweetheart Valentine Paris Moonlight Roses Summer Bouquet Embrace Honeymoon",
    "Sci-Fi": "Galaxy Android Nebula Cosmos Replica Orbit Colony Quantum Starship Signal",
    "Thriller": "Deadline Hostage Panic Stalker Conspiracy Trap Countdown Suspect Edge Obsession",
    "War": "Battalion Trench Armistice Bridge Platoon Regiment Siege Bomber Frontline Medal",
    "Western": "Saloon Outlaw Prairie Sheriff Stagecoach Canyon Rustler Mustang Gunslinger Frontier",
}
GENRES = tuple(WORDS_OF_GENRES)
EPITHETS = (
    "Last Lost Golden Silent Broken Scarlet Crimson Endless Hidden First Wild Distant Perfect Little Second Strange "
    "Burning Hollow Gentle Iron Stolen Bitter Northern Empty Sudden Brave Frozen Quiet Restless Sunken Borrowed Faded "
    "Forgotten Paper Glass Velvet Electric Wandering Honest Final"
)
TEMPLATES = ("The {} {}", "{} {}", "A {} {}", "My {} {}")
OCCUPATIONS = ("administrator", "artist", "educator", "engineer", "farmer", "healthcare", "librarian", "programmer")
SECOND_GENRE = 0.3
"""Share of the films with a second genre, which has no effect on who likes them."""


def candidate_table(genre: npt.NDArray[np.int64], draw: np.random.Generator) -> pa.Table:
    """Films: id, title (unique; with one of the ten words of its genre), genres, year.

    Args:
        genre: Index of each film's genre in `GENRES`, `[C]`.
        draw: Random number generator.
    """
    year = 1940 + (75 * draw.beta(4, 1.2, size=len(genre))).astype(np.int64)
    return pa.table(
        {
            "movie_id": np.arange(1, len(genre) + 1),
            "movie_title": _titles(genre, year, draw),
            "genres": _genre_lists(genre, draw),
            "year": year,
        }
    )


def query_table(tastes: npt.NDArray[np.float64], draw: np.random.Generator) -> pa.Table:
    """People: id, and age, gender and occupation, which correlate with their constant tastes `[Q, s]`."""
    noise = draw.normal(size=(len(tastes), 2))
    age = np.clip(35 + 10 * tastes[:, 1] + 6 * noise[:, 0], 12, 90).astype(np.int64)
    directions = draw.normal(size=(tastes.shape[1], len(OCCUPATIONS)))
    occupation = (tastes @ directions + draw.gumbel(size=(len(tastes), len(OCCUPATIONS)))).argmax(axis=1)
    return pa.table(
        {
            "user_id": np.arange(1, len(tastes) + 1),
            "age": age,
            "gender": pa.array(np.where(tastes[:, 0] + 0.7 * noise[:, 1] > 0, "F", "M")),
            "occupation": pa.array(OCCUPATIONS).take(pa.array(occupation)),
        }
    )


def _titles(genre: npt.NDArray[np.int64], year: npt.NDArray[np.int64], draw: np.random.Generator) -> pa.Array:
    """Epithet and genre word in one of four patterns; repeated titles are numbered from Part 2."""
    words = np.array([word for own in WORDS_OF_GENRES.values() for word in own.split()])
    epithets = np.array(EPITHETS.split())
    per_genre = len(words) // len(GENRES)
    order = np.lexsort((draw.random(len(genre)), genre))
    place = np.empty(len(genre), dtype=np.int64)
    counts = np.bincount(genre, minlength=len(GENRES))
    place[order] = np.arange(len(genre)) - np.repeat(np.cumsum(counts) - counts, counts)
    combinations = per_genre * len(epithets) * len(TEMPLATES)
    part, combination = place // combinations, place % combinations
    combination = draw.permutation(combinations)[combination]
    word = words[genre * per_genre + combination % per_genre]
    epithet = epithets[combination // per_genre % len(epithets)]
    pattern = combination // (per_genre * len(epithets))
    before = pa.array([template.split("{}")[0] for template in TEMPLATES]).take(pa.array(pattern))
    numbers = pc.binary_join_element_wise(" Part ", pa.array(part + 1).cast(pa.string()), "")
    suffix = pc.if_else(pa.array(part > 0), numbers, "")
    named = pc.binary_join_element_wise(before, pa.array(epithet), "")
    years = pc.binary_join_element_wise(" (", pa.array(year).cast(pa.string()), ")", "")
    return pc.binary_join_element_wise(named, " ", pa.array(word), suffix, years, "")


def _genre_lists(genre: npt.NDArray[np.int64], draw: np.random.Generator) -> pa.ListArray:
    second = (genre + draw.integers(1, len(GENRES), size=len(genre))) % len(GENRES)
    both = draw.random(len(genre)) < SECOND_GENRE
    lengths = 1 + both.astype(np.int32)
    flat = np.empty(int(lengths.sum()), dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat[offsets[:-1]] = genre
    flat[offsets[:-1][both] + 1] = second[both]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(GENRES).take(pa.array(flat)))
